//! Failover end to end: two servers with moods, a till that calls all the time, and both servers'
//! ledgers, which say what was executed where.

#[path = "failover/grpc.rs"]
mod grpc;
#[path = "failover/lines.rs"]
mod lines;
#[path = "failover/moods.rs"]
mod moods;
#[path = "failover/operators.rs"]
mod operators;
#[path = "failover/rules.rs"]
mod rules;
#[path = "failover/scene.rs"]
mod scene;
