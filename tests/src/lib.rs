//! Real processes under test.
//!
//! # Layout
//! - [`wait`], [`seed`], [`ports`]: time, chance and addresses, as tests may use them.
//! - [`process`]: one program; [`nats`] ([`nats_jwt`]), [`gateway`], [`operator`]: the three that Tidings consists of;
//!   [`installation`]: all of them together on directories; [`side`]: how clients reach them.
//! - [`manifest`], [`publisher`]: what goes in. [`sse`], [`event_source`], [`web`] ([`tls`]), [`metrics`]: what comes out.
//! - [`truth`], [`ledger`]: what was stored, and whether a record of a client agrees with it; [`transcript`]: it in short.
//! - [`token`], [`key_server`]: what issuers make and publish. [`evidence`], [`token_search`]: that nobody tells a token.
//! - [`nats_protocol`], [`proxy`], [`raw`], [`line`](mod@line), [`h2_frames`]: a bad network, and peers with bad manners. [`nginx`]: a proxy with good ones.
//! - [`kube_site`]: operators on a Kubernetes API and NATS; [`voice`]: what a gateway would say to them; [`cable`]: what
//!   connects one of them with a server, to be cut.
//! - `kube_*`, [`kubectl`], [`control_plane`], [`api_audit`], [`reaper`]: a real Kubernetes API server;
//!   [`node_cluster`], [`oci_image`]: nodes, and what they run; [`helm`], [`chart_values`],
//!   [`chart_metrics`], [`network_policy`]: the chart as it renders.
//! - [`chart_site`], [`chart_release`], [`chart_images`]: the chart in a cluster; [`crowd`]: who visits it from a pod;
//!   [`ready_history`]: what its Channels said meanwhile.
//! - `structure`: a check of the product's sources: rooms, imports, long functions.

pub mod api_audit;
pub mod cable;
pub mod chart_images;
pub mod chart_metrics;
pub mod chart_release;
pub mod chart_site;
pub mod chart_values;
pub mod chunked;
pub mod control_plane;
pub mod crowd;
pub mod event_source;
pub mod evidence;
pub mod gateway;
pub mod h2_frames;
pub mod helm;
pub mod installation;
pub mod key_server;
pub mod kube_assets;
pub mod kube_authority;
pub mod kube_cluster;
mod kube_flags;
pub mod kube_namespace;
mod kube_network;
mod kube_node;
pub mod kube_pod;
pub mod kube_release;
pub mod kube_routes;
pub mod kube_schemas;
pub mod kube_site;
pub mod kubectl;
pub mod ledger;
pub mod line;
pub mod manifest;
pub mod metrics;
pub mod nats;
pub mod nats_jwt;
pub mod nats_protocol;
pub mod network_policy;
pub mod nginx;
pub mod node_cluster;
pub mod oci_image;
pub mod operator;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod publisher;
pub mod raw;
pub mod ready_history;
pub mod reaper;
pub mod seed;
pub mod segments;
pub mod side;
pub mod sse;
#[cfg(test)]
mod structure;
pub mod tls;
pub mod token;
pub mod token_search;
pub mod transcript;
pub mod truth;
pub mod voice;
pub mod wait;
pub mod web;
