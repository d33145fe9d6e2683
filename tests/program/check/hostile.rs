//! Images that are made to do harm.
