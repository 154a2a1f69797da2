//! Where the tools ask the chain.

use std::path::PathBuf;

use anchor::Node;

/// The address of a node of the chain.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct NodeArgs {
    /// JSON-RPC address of a node of the chain, like http://127.0.0.1:8545 or https://node.example.net. It is believed: use your own. One with a password or a key in it is
    /// better told by the variable: the command line shows in the list of processes.
    #[arg(long, value_name = "URL", env = "FOREBAY_RPC", hide_env_values = true)]
    rpc: Node,
    /// File with the authorities (PEM) that alone vouch for an https:// node; without it those of this machine do.
    #[arg(long = "ca", value_name = "FILE", env = "FOREBAY_RPC_CA")]
    ca: Option<PathBuf>,
}

impl NodeArgs {
    pub(crate) fn node(&self) -> Node {
        self.rpc.clone().trusting(self.ca.clone())
    }
}
