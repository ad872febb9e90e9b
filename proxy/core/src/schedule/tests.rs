//! Stories and properties of the scheduler.
