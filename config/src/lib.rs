//! The policy language of Tillgate. Pure functions, no IO.

pub mod effective;
