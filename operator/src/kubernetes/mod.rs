//! The front end in a Kubernetes cluster: everything that talks to the API server for the scheduler.

pub mod config;
pub mod config_maps;
pub mod controller;
pub mod crd;
pub mod event_recorder;
pub mod finalizer;
pub mod heartbeat_listener;
pub mod reconciler;
pub mod watch;
pub mod watch_pace;
