//! Stories of tiers, and of the whole board.

mod shifts;
mod simulation;
mod stories;
