//! Names: of Channels, of subjects and topics, and of what is wrong where.

pub mod fault;
pub mod key;
pub mod label;
pub mod origin;
pub mod subject;
pub mod template;
pub mod topic;
pub mod topic_filter;
pub mod topic_set;
