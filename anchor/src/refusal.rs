//! Why a node says no. Nodes say it in words, each in its own; here the words become types.

use wire::Digest;

use crate::registry;

/// What a node, or the contract behind it, refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The node has this very transaction already.
    #[error("the transaction is known already")]
    AlreadyKnown,
    /// The nonce is used: by this transaction, by another one of ours, or by somebody else with the key.
    #[error("the nonce is used already")]
    NonceTooLow,
    /// The account can't pay.
    #[error("insufficient funds")]
    NoFunds,
    /// The nonce is taken by a pending transaction, and this one does not pay enough more to replace it.
    #[error("it pays too little to replace the pending one")]
    Underpriced,
    /// The fee cap is below what a block asks now.
    #[error("its fee cap is below the base fee")]
    FeeBelowBase,
    /// The stream's head is another one.
    #[error("the stream's head is another one")]
    HeadMismatch(Digest),
    /// The call fails for another reason.
    #[error("the call fails: {0}")]
    Reverts(String),
    /// The node limits our rate.
    #[error("too many requests")]
    Busy,
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// What nodes say, in lower case, and what it means; the first that fits counts. geth, anvil, and the others of the
/// family (reth, erigon, nethermind, besu) where they differ.
const WORDS: [(&str, Refusal); 14] = [
    ("already known", Refusal::AlreadyKnown),
    ("already imported", Refusal::AlreadyKnown),
    ("alreadyknown", Refusal::AlreadyKnown),
    ("known transaction", Refusal::AlreadyKnown),
    ("nonce too low", Refusal::NonceTooLow),
    ("oldnonce", Refusal::NonceTooLow),
    ("insufficient funds", Refusal::NoFunds),
    ("insufficientfunds", Refusal::NoFunds),
    ("upfront cost exceeds account balance", Refusal::NoFunds),
    ("underpriced", Refusal::Underpriced),
    ("fee too low", Refusal::Underpriced),
    ("max fee per gas less than block base fee", Refusal::FeeBelowBase),
    ("too many requests", Refusal::Busy),
    ("rate limit", Refusal::Busy),
];

impl Refusal {
    /// Of a node's error: its code and words, and what the contract gave back if it was the contract that refused.
    pub(crate) fn classify(code: i64, message: &str, reverted: Option<&[u8]>) -> Self {
        match reverted {
            Some(data) => match registry::head_mismatch(data) {
                Some(have) => Self::HeadMismatch(have),
                None => Self::Reverts(message.to_owned()),
            },
            None => Self::of_words(code, message),
        }
    }

    fn of_words(code: i64, message: &str) -> Self {
        let said = message.to_lowercase();
        if let Some((_, refusal)) = WORDS.iter().find(|(words, _)| said.contains(words)) {
            return refusal.clone();
        }
        match code {
            429 | -32005 => Self::Busy,
            3 => Self::Reverts(message.to_owned()),
            _ if said.contains("execution reverted") => Self::Reverts(message.to_owned()),
            _ => Self::Other(message.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_geth_and_of_anvil_mean_the_same() {
        for (code, words, expected) in [
            (-32000, "already known", Refusal::AlreadyKnown),
            (-32003, "transaction already imported", Refusal::AlreadyKnown),
            (-32000, "nonce too low: next nonce 5, tx nonce 4", Refusal::NonceTooLow),
            (-32003, "nonce too low", Refusal::NonceTooLow),
            (-32000, "insufficient funds for gas * price + value: balance 0, tx cost 1", Refusal::NoFunds),
            (-32003, "Insufficient funds for gas * price + value", Refusal::NoFunds),
            (-32000, "replacement transaction underpriced", Refusal::Underpriced),
            (-32003, "max fee per gas less than block base fee", Refusal::FeeBelowBase),
            (-32005, "limit exceeded", Refusal::Busy),
            (3, "execution reverted: custom error 0x12", Refusal::Reverts("execution reverted: custom error 0x12".into())),
            (-32601, "Method not found", Refusal::Other("Method not found".into())),
        ] {
            assert_eq!(Refusal::of_words(code, words), expected, "{words}");
        }
    }
}
