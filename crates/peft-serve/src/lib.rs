//! Serves many adapters from one base model.
