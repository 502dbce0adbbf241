//! The ordered engine: see the trait.
