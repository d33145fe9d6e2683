//! Stub.
use proptest as _;
