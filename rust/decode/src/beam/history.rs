//! What has been written, as a tree: beams share their beginnings, and nothing is copied when one is continued twice.

/// A place in the tree; the root is the empty text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node(u32);

impl Node {
    /// The empty text.
    pub const ROOT: Node = Node(u32::MAX);
}

/// All texts of a search.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Each node's parent and token.
    nodes: Vec<(Node, u32)>,
}

impl History {
    /// Room for `nodes` nodes.
    pub fn with_capacity(nodes: usize) -> Self {
        Self { nodes: Vec::with_capacity(nodes) }
    }

    /// The text at `parent` and one token more.
    pub fn push(&mut self, parent: Node, token: u32) -> Node {
        // 2^32 nodes are 32 GiB: memory ends before the ids do.
        let node = Node(self.nodes.len() as u32);
        self.nodes.push((parent, token));
        node
    }

    /// The tokens of the text at `node`, the last one first.
    pub fn backwards(&self, node: Node) -> impl Iterator<Item = u32> {
        let mut at = node;
        std::iter::from_fn(move || {
            let &(parent, token) = self.nodes.get(at.0 as usize)?;
            at = parent;
            Some(token)
        })
    }
}
