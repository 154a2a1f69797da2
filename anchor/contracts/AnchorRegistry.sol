// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// Digests of batches, written by whoever holds them, each writer in streams of its own.
///
/// A stream belongs to (msg.sender, stream), so there is no owner, no admin key, and nobody can write first what somebody else
/// is about to write. A stream's state is one word, its head, which commits to every batch before it in their order:
///
///     head(0)   = 0
///     head(n+1) = keccak256(abi.encode(head(n), root, firstSeq, count))
///
/// A batch is accepted only on top of the head that it names (compare-and-swap), so sending one twice changes nothing, and two
/// batches can't change places. `firstSeq` and `count` number the leaves of the stream's batches, gap-free from 1; the contract
/// records them and leaves the judgement to the verifier, who sees a withheld batch as a hole in them.
contract AnchorRegistry {
    /// One batch of one stream, for `anchorMany`.
    struct Batch {
        bytes32 stream;
        bytes32 prev;
        bytes32 root;
        uint64 firstSeq;
        uint64 count;
    }

    /// The stream's head is not the one that the batch builds upon.
    error HeadMismatch(bytes32 have);

    event Anchored(
        address indexed submitter,
        bytes32 indexed stream,
        bytes32 indexed root,
        bytes32 prev,
        uint64 firstSeq,
        uint64 count
    );

    mapping(bytes32 key => bytes32 head) private heads;

    /// Writes one batch on top of `prev`.
    function anchor(bytes32 stream, bytes32 prev, bytes32 root, uint64 firstSeq, uint64 count) external {
        _anchor(stream, prev, root, firstSeq, count);
    }

    /// Writes several batches of the sender's streams, all or none.
    function anchorMany(Batch[] calldata batches) external {
        for (uint256 i = 0; i < batches.length; ++i) {
            Batch calldata batch = batches[i];
            _anchor(batch.stream, batch.prev, batch.root, batch.firstSeq, batch.count);
        }
    }

    /// The head of a stream; zero for one that holds nothing.
    function headOf(address submitter, bytes32 stream) external view returns (bytes32) {
        return heads[_key(submitter, stream)];
    }

    function _anchor(bytes32 stream, bytes32 prev, bytes32 root, uint64 firstSeq, uint64 count) private {
        bytes32 key = _key(msg.sender, stream);
        bytes32 have = heads[key];
        if (have != prev) revert HeadMismatch(have);
        heads[key] = keccak256(abi.encode(prev, root, firstSeq, count));
        emit Anchored(msg.sender, stream, root, prev, firstSeq, count);
    }

    function _key(address submitter, bytes32 stream) private pure returns (bytes32) {
        return keccak256(abi.encode(submitter, stream));
    }
}
