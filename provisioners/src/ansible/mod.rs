//! The layout of Ansible roles: which directories are roles, which other roles, files and
//! variables a role uses.
//!
//! The step that runs a role is [`crate::steps::ansible`].

pub(crate) mod external;
pub(crate) mod paths;
pub(crate) mod references;
pub(crate) mod review;
pub(crate) mod role;
pub(crate) mod tasks;
pub(crate) mod used_roles;
pub(crate) mod variable_names;
