//! The tree that sandbox tests use: the lab's base below an upper, served as the program serves it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use fs_model::layer::squashfs::CacheOptions;
use fs_model::tree::{Follow, TreeOptions, XattrSupport};
use fs_model::{Attr, Tree};
use overcoat::fuse::{self, Serving, View};
use overcoat::image::open;
use overcoat::root::mounted_tree::{CreateAs, Meta, MountedTree};

/// A tree and its view for the kernel.
#[derive(Clone)]
pub struct ServedTree {
    pub mounted_tree: Arc<MountedTree>,
    view: View,
}

impl ServedTree {
    /// Opens the Debian base, for a kernel that maps ids up to `max_id`.
    pub fn base(max_id: u32) -> Self {
        ServedTree::with(View { max_id, owner: None, unprivileged: false })
    }

    /// Opens the Debian base with this view.
    pub fn with(view: View) -> Self {
        let base = super::lab::file("base.squashfs");
        let layers = open::open(&[base], CacheOptions::default()).unwrap().layers;
        let options = TreeOptions { upper_limit: Some(1 << 30), xattrs: XattrSupport::None };
        let tree = Tree::new(layers, options);
        ServedTree { mounted_tree: Arc::new(MountedTree::new(Arc::new(tree.unwrap()))), view }
    }

    /// Serves the tree on a FUSE device.
    pub fn serve(&self, device: OwnedFd) -> Serving {
        let serving = fuse::serve(self.mounted_tree.tree().clone(), device, self.view).unwrap();
        self.mounted_tree.set_notifier(serving.notifier().clone());
        serving
    }

    /// Returns the attributes of the entry at `path`, which has no leading slash.
    pub fn find(&self, path: &str) -> Option<Attr> {
        let path = format!("/{path}");
        self.mounted_tree.stat(path.as_bytes(), Follow::No).unwrap().map(|(_, attr)| attr)
    }

    /// Like [`ServedTree::find`], for an entry that must exist.
    pub fn get(&self, path: &str) -> Attr {
        self.find(path).unwrap_or_else(|| panic!("{path} is not in the tree"))
    }

    /// Creates a file at `path`, owned by root.
    pub fn file(&self, path: &str, content: &[u8], mode: u16) {
        let meta = Meta { mode, uid: 0, gid: 0, mtime: None };
        self.mounted_tree
            .put_file(format!("/{path}").as_bytes(), &mut &*content, &meta, CreateAs::ImageEntry)
            .unwrap();
    }
}
