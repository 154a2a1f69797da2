//! Which subscriptions exist: from a topic to the slots of the filters that match it.
//!
//! Every distinct filter has a slot, which is all that the router knows of it (`t/17`). So the face does the matching, the router keeps
//! one log a slot, and neither topics nor filters of clients ever reach the router. Slots are used again when nobody
//! subscribes to their filter any more, so the router's memory follows the filters in use.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::RwLock;
use rustc_hash::FxHashMap;

/// Filters of more levels are refused: the tree below is walked by recursion.
pub(crate) const FILTER_LEVELS_MAX: usize = 64;

/// Topics whose routes are remembered; beyond, the memory is emptied.
const ROUTES_MAX: usize = 65_536;

/// Number of a filter in the router.
pub(crate) type Slot = u32;

/// The name of a slot inside the router.
pub(crate) fn slot_name(slot: Slot) -> String {
    format!("t/{slot}")
}

/// Reads a slot back from its name.
pub(crate) fn slot_of(name: &[u8]) -> Option<Slot> {
    std::str::from_utf8(name).ok()?.strip_prefix("t/")?.parse().ok()
}

/// The slots that a topic goes to, by their names in the router.
pub(crate) type Route = Arc<[Bytes]>;

#[derive(Default)]
pub(crate) struct Index {
    tree: RwLock<Tree>,
    routes: RwLock<Routes>,
    /// Grows when a filter appears or goes.
    generation: AtomicU64,
}

#[derive(Default)]
struct Tree {
    root: Node,
    filters: FxHashMap<String, Entry>,
    free: Vec<Slot>,
    slots: Slot,
}

struct Entry {
    slot: Slot,
    subscribers: usize,
}

#[derive(Default)]
struct Node {
    children: FxHashMap<Box<str>, Node>,
    /// `+`
    any: Option<Box<Node>>,
    /// `#`
    rest: Option<Bytes>,
    here: Option<Bytes>,
}

#[derive(Default)]
struct Routes {
    generation: u64,
    known: FxHashMap<Box<str>, Route>,
}

impl Index {
    /// One subscriber more for a valid filter of at most [`FILTER_LEVELS_MAX`] levels.
    pub(crate) fn add(&self, filter: &str) -> Slot {
        let mut tree = self.tree.write();
        if let Some(entry) = tree.filters.get_mut(filter) {
            entry.subscribers += 1;
            return entry.slot;
        }
        let slot = tree.free.pop().unwrap_or_else(|| {
            tree.slots += 1;
            tree.slots
        });
        tree.filters.insert(filter.to_owned(), Entry { slot, subscribers: 1 });
        *tree.root.place(filter) = Some(Bytes::from(slot_name(slot)));
        self.generation.fetch_add(1, Ordering::Release);
        slot
    }

    /// One subscriber less.
    pub(crate) fn remove(&self, filter: &str) {
        let mut tree = self.tree.write();
        let Some(entry) = tree.filters.get_mut(filter) else { return };
        entry.subscribers -= 1;
        if entry.subscribers == 0 {
            let slot = entry.slot;
            tree.filters.remove(filter);
            tree.root.take_out(filter);
            tree.free.push(slot);
            self.generation.fetch_add(1, Ordering::Release);
        }
    }

    /// Changes when what [`Index::route`] answers may have changed.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Where messages to a valid topic go.
    pub(crate) fn route(&self, topic: &str) -> Route {
        let generation = self.generation();
        {
            let routes = self.routes.read();
            if routes.generation == generation
                && let Some(route) = routes.known.get(topic)
            {
                return route.clone();
            }
        }
        let mut found = Vec::new();
        self.tree.read().root.find(topic.split('/'), topic.starts_with('$'), &mut found);
        let route: Route = found.into();
        let mut routes = self.routes.write();
        if routes.generation != generation || routes.known.len() >= ROUTES_MAX {
            routes.known.clear();
            routes.generation = generation;
        }
        routes.known.insert(topic.into(), route.clone());
        route
    }
}

impl Node {
    fn place(&mut self, filter: &str) -> &mut Option<Bytes> {
        let mut node = self;
        for level in filter.split('/') {
            node = match level {
                "#" => return &mut node.rest,
                "+" => node.any.get_or_insert_default(),
                text => node.children.entry(text.into()).or_default(),
            };
        }
        &mut node.here
    }

    /// Takes a filter out, and the nodes that only it needed.
    fn take_out(&mut self, filter: &str) {
        let (level, below) = match filter.split_once('/') {
            Some((level, below)) => (level, Some(below)),
            None => (filter, None),
        };
        let leave = |node: &mut Node| match below {
            Some(below) => node.take_out(below),
            None => node.here = None,
        };
        match level {
            "#" => self.rest = None,
            "+" => {
                if let Some(node) = &mut self.any {
                    leave(node);
                    if node.is_empty() {
                        self.any = None;
                    }
                }
            }
            text => {
                if let Some(node) = self.children.get_mut(text) {
                    leave(node);
                    if node.is_empty() {
                        self.children.remove(text);
                    }
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.any.is_none() && self.rest.is_none() && self.here.is_none()
    }

    /// `hidden`: the first level begins with `$`, which no wildcard stands for.
    fn find(&self, mut levels: std::str::Split<'_, char>, hidden: bool, found: &mut Vec<Bytes>) {
        if !hidden {
            found.extend(self.rest.clone());
        }
        let Some(level) = levels.next() else {
            found.extend(self.here.clone());
            return;
        };
        if let Some(node) = self.children.get(level) {
            node.find(levels.clone(), false, found);
        }
        if let Some(node) = self.any.as_ref().filter(|_| !hidden) {
            node.find(levels, false, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_agrees_with_the_rules() {
        let filters = ["#", "+", "+/+", "a/#", "a/+", "a/b", "a/+/c", "$SYS/#", "+/b", "é/#", "/", "/#", "a//b", "a/b/#"];
        let topics = ["a", "a/b", "a/b/c", "a/x/c", "$SYS/x", "$SYS", "é", "é/b", "/", "", "a//b", "b"];
        let index = Index::default();
        let slots: Vec<Slot> = filters.iter().map(|filter| index.add(filter)).collect();
        let check = |present: &[usize]| {
            for topic in topics.iter().filter(|topic| wire::filter::valid_topic(topic)) {
                let mut got: Vec<Slot> = index.route(topic).iter().filter_map(|name| slot_of(name)).collect();
                let mut want: Vec<Slot> =
                    present.iter().filter(|i| wire::filter::matches(filters[**i], topic)).map(|i| slots[*i]).collect();
                got.sort_unstable();
                want.sort_unstable();
                assert_eq!(got, want, "{topic}");
            }
        };
        let mut present: Vec<usize> = (0..filters.len()).collect();
        check(&present);
        while let Some(last) = present.pop() {
            index.remove(filters[last]);
            check(&present);
        }
        assert!(index.tree.read().root.is_empty(), "no node is left behind");
        assert_eq!(index.add("new"), slots[0], "slots are used again");
    }

    #[test]
    fn a_filter_goes_with_its_last_subscriber() {
        let index = Index::default();
        assert_eq!(index.add("a"), index.add("a"));
        index.remove("a");
        assert_eq!(index.route("a").len(), 1);
        index.remove("a");
        assert!(index.route("a").is_empty());
    }
}
