//! Relays NATS messages to browsers as Server-Sent Events.
//!
//! # Layout
//! Outside to inside; `docs/architecture.md` follows an event through it.
//! - The process: [`run`] owns every task, some of them as [`core_tasks`]; [`config`], [`signal`], [`telemetry`], [`drain`],
//!   [`slack`].
//! - Connections: [`listener`] → [`accept`], as many as there is [`room`] for → [`tls`] ([`certificate`], [`der`]) where it is
//!   on → [`connection`], HTTP/1.1 or HTTP/2 ([`credit`]).
//! - Requests: [`app`] on the public port, [`admin`] on the other. [`subscribe`] and [`publish`] read what is asked for
//!   ([`query`]); [`entitlement`] ([`access`]), [`limit`] ([`client`], [`rate`], [`quota`]) and [`cors`] decide. The answer is a stream, a [`problem`],
//!   or a [`retry`] for whoever should come back; [`reply`] is their type. [`demo`] is one page.
//! - Tokens: a [`credential`] is put to the [`authority`], which holds the [`token`] against the [`keyring`] of its
//!   [`issuer`] ([`keys`], [`fetch`]) or asks the cluster ([`review`], [`reviews`]). It finds a [`principal`] with [`claims`]; [`grant`]
//!   and [`access`] say which topics those give, and a [`lease`] for how long. [`settings`], [`settings_file`], [`rules`], [`denied`],
//!   [`file`](mod@file) are the administrator's.
//! - Routes: [`route_files`] follows a directory, [`route_objects`] the ConfigMaps of a namespace; [`route_table`] decides
//!   what is in force, [`routes`] puts it there.
//! - What the operator hears: [`beats`] decides when and what, [`pulse`] sends it. [`service`] answers `nats micro`.
//! - The core: the [`hub`] and its [`channel`]s; a [`relay`] each, which does what the [`ingest`] decides; [`log`],
//!   [`fanout`], [`feed`], [`index`], [`subscriber`]; [`resume`], [`backfill`] ([`gate`]), [`chunk`]; [`stream`], [`farewell`].
//! - How bytes leave: [`body`] where hyper keeps the connection; else [`handover`] to a [`shard`] with its [`roll`]s and
//!   [`tally`], which [`shards`] drives. Its [`outside`] is the [`kernel`], its [`inbox`], and [`socket`]s, some with a TLS [`session`].
//! - NATS: [`broker`], [`link`] ([`login`]), [`reader`]; [`wire`] reads messages into [`publication`]s, [`frame`] writes them as events.
//! - Counting: [`metrics`], [`channel_metrics`], [`process`], on [`instrument`]s and [`label`]s; [`end`] names why streams end.
//!
//! Whatever decides is synchronous and takes `now` as an argument; whatever waits decides nothing.

pub mod accept;
pub mod access;
pub mod admin;
pub mod app;
pub mod authority;
pub mod backfill;
pub mod beats;
pub mod body;
pub mod broker;
pub mod certificate;
pub mod channel;
pub mod channel_metrics;
pub mod chunk;
pub mod claims;
pub mod client;
pub mod config;
pub mod connection;
pub mod core_tasks;
pub mod cors;
pub mod credential;
pub mod credit;
pub mod demo;
pub mod denied;
pub mod der;
pub mod descriptor;
pub mod drain;
pub mod end;
pub mod entitlement;
pub mod fanout;
pub mod farewell;
pub mod feed;
pub mod fetch;
pub mod file;
pub mod frame;
pub mod gate;
pub mod grant;
pub mod handover;
pub mod hub;
pub mod inbox;
pub mod index;
pub mod ingest;
pub mod instrument;
pub mod issuer;
pub mod kernel;
pub mod keyring;
pub mod keys;
pub mod label;
pub mod lease;
pub mod limit;
pub mod link;
pub mod listener;
pub mod log;
pub mod login;
pub mod metrics;
pub mod outside;
pub mod principal;
pub mod problem;
pub mod process;
pub mod publication;
pub mod publish;
pub mod pulse;
pub mod query;
pub mod quota;
pub mod rate;
pub mod reader;
pub mod relay;
pub mod reply;
pub mod resume;
pub mod retry;
pub mod review;
pub mod reviews;
pub mod roll;
pub mod room;
pub mod route_files;
pub mod route_objects;
pub mod route_table;
pub mod routes;
pub mod rules;
pub mod run;
pub mod service;
pub mod session;
pub mod settings;
pub mod settings_file;
pub mod shard;
#[cfg(test)]
mod shard_tests;
pub mod shards;
pub mod signal;
pub mod slack;
pub mod socket;
pub mod strangers;
pub mod stream;
pub mod subscribe;
pub mod subscriber;
pub mod tally;
pub mod tcp;
pub mod telemetry;
pub mod tls;
pub mod token;
pub mod unit;
pub mod wire;
