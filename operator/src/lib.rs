//! Reconciles Channels into NATS streams and gateway Routes.
