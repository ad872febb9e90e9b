//! HTTP on both sides: serving clients, pooling connections to servers, and what of a message
//! passes from one to the other.
//!
//! hyper frames the messages. Here is what it leaves open: the time limits of a client
//! connection, a bounded pool that keeps classes apart, bodies that are counted and may be
//! broken but never completed early, and the headers that must not pass.

pub mod body;
pub mod client;
pub mod flow;
pub mod grpc;
pub mod head;
pub mod headers;
mod pace;
pub mod post;
pub mod replay;
pub mod retry_after;
pub mod server;
pub mod websocket;
