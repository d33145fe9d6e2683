//! A host directory as a layer.
