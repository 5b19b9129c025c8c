//! The only place where wire becomes model.
