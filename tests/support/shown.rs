//! The tree that the sandbox's tests run in: the lab's base under an upper, served as the program
//! serves it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use fs_model::layer::squashfs::CacheOptions;
use fs_model::tree::{Follow, TreeOptions, XattrSupport};
use fs_model::{Attr, Tree};
use overcoat::fuse::{self, Serving, View};
use overcoat::image::open;
use overcoat::root::live::{Lay, Live, Meta};

/// A tree, and how it is shown.
#[derive(Clone)]
pub struct Shown {
    pub live: Arc<Live>,
    view: View,
}

impl Shown {
    /// The Debian base, shown to a kernel that has names for the ids up to `max_id`.
    pub fn base(max_id: u32) -> Self {
        Shown::with(View { max_id, owner: None, unprivileged: false })
    }

    /// The Debian base, shown as `view` says.
    pub fn with(view: View) -> Self {
        let base = super::lab::file("base.squashfs");
        let layers = open::open(&[base], CacheOptions::default()).unwrap().layers;
        let options = TreeOptions { upper_limit: Some(1 << 30), xattrs: XattrSupport::None };
        let tree = Tree::new(layers, options);
        Shown { live: Arc::new(Live::new(Arc::new(tree.unwrap()))), view }
    }

    /// Answers the kernel's requests on `device`.
    pub fn serve(&self, device: OwnedFd) -> Serving {
        let serving = fuse::serve(self.live.tree().clone(), device, self.view).unwrap();
        self.live.set_notifier(serving.notifier().clone());
        serving
    }

    /// The attributes of what is at `path`, a path without a leading slash.
    pub fn find(&self, path: &str) -> Option<Attr> {
        let path = format!("/{path}");
        self.live.stat(path.as_bytes(), Follow::No).unwrap().map(|(_, attr)| attr)
    }

    /// As [`Shown::find`], where there must be something.
    pub fn get(&self, path: &str) -> Attr {
        self.find(path).unwrap_or_else(|| panic!("{path} is not in the tree"))
    }

    /// Puts a file of root's at `path`.
    pub fn file(&self, path: &str, content: &[u8], mode: u16) {
        let meta = Meta { mode, uid: 0, gid: 0, mtime: None };
        self.live
            .put_file(format!("/{path}").as_bytes(), &mut &*content, &meta, Lay::Captured)
            .unwrap();
    }
}
