//! Namespaces, mounts and the processes in them: the only place for them.
