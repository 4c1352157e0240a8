//! A small invented world, and all that is told of it: what the embedded model of this repository is trained on.
//!
//! ```
//! use small_world::{Corpus, SEED, World};
//!
//! let world = World::new(SEED);
//! let documents: Vec<String> = Corpus::new(&world, 1).take(3).collect();
//! assert_eq!(documents, Corpus::new(&world, 1).take(3).collect::<Vec<_>>());
//! ```
//!
//! The island has a market town, twelve villages, seventy-two people, twenty-four crafts and as many dishes. Who lives
//! where and is whose kin is drawn from a seed; how it is told is drawn from another. Nothing told contradicts the
//! world, so a question has one answer.

mod corpus;
mod courier;
mod dice;
mod facts;
pub mod lists;
pub mod map;
mod people;
mod script;
mod skills;
mod template;
mod world;

pub use corpus::{Corpus, TURN_END, TURN_START, prompt, questions};
pub use courier::{Row, Task, label};
pub use dice::Dice;
pub use facts::{Exchange, Facts, Relation};
pub use people::{PEOPLE, Person};
pub use script::{Script, Told, notes, stories};
pub use world::{Entity, SEED, Value, World};
