//! Names that come often, as small numbers: series and relays.
//!
//! Whoever appends looks the number up on his own thread, so that the writer thread never hashes a text. A name that was numbered for
//! an append that failed stays: it costs its bytes and is right when it comes again.

use std::sync::Arc;

use parking_lot::RwLock;
use rustc_hash::FxHashMap;

/// Two-way map of names and numbers.
#[derive(Debug, Default)]
pub(crate) struct Names {
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    ids: FxHashMap<Arc<str>, u32>,
    names: Vec<Arc<str>>,
}

impl Inner {
    fn add(&mut self, name: &str) -> u32 {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let id = self.names.len() as u32;
        let name: Arc<str> = name.into();
        self.names.push(name.clone());
        self.ids.insert(name, id);
        id
    }
}

impl Names {
    /// Names with the numbers that they were saved under; numbers may be missing.
    pub(crate) fn load(saved: impl IntoIterator<Item = (u32, String)>) -> Self {
        let mut inner = Inner::default();
        for (id, name) in saved {
            let name: Arc<str> = name.into();
            let index = id as usize;
            if inner.names.len() <= index {
                // A number that was given but never saved stays unused: the empty name is nobody's.
                inner.names.resize_with(index + 1, || "".into());
            }
            inner.names[index] = name.clone();
            inner.ids.insert(name, id);
        }
        Self { inner: RwLock::new(inner) }
    }

    /// The numbers of `names`, in order; unknown names get one.
    pub(crate) fn number<'a>(&self, names: impl Iterator<Item = &'a str> + Clone) -> Vec<u32> {
        let known: Option<Vec<u32>> = {
            let inner = self.inner.read();
            names.clone().map(|name| inner.ids.get(name).copied()).collect()
        };
        known.unwrap_or_else(|| {
            let mut inner = self.inner.write();
            names.map(|name| inner.add(name)).collect()
        })
    }

    /// The number of one name.
    pub(crate) fn number_one(&self, name: &str) -> u32 {
        let known = self.get(name);
        known.unwrap_or_else(|| self.inner.write().add(name))
    }

    pub(crate) fn get(&self, name: &str) -> Option<u32> {
        self.inner.read().ids.get(name).copied()
    }

    pub(crate) fn name(&self, id: u32) -> Option<Arc<str>> {
        self.inner.read().names.get(id as usize).cloned()
    }

    pub(crate) fn len(&self) -> usize {
        self.inner.read().names.len()
    }

    /// All names that pass, sorted.
    pub(crate) fn filter(&self, pass: impl Fn(&str) -> bool) -> Vec<Arc<str>> {
        let mut names: Vec<_> = self.inner.read().names.iter().filter(|name| !name.is_empty() && pass(name)).cloned().collect();
        names.sort_unstable();
        names
    }
}
