//! Named scenarios that read like their description: one fault each, and the promise that must
//! hold.

mod stage;

use super::Play;

macro_rules! stories {
    ($($name:ident $about:literal,)*) => {
        $(mod $name;)*

        /// Name, a line about it, and how to play it.
        pub const STORIES: &[(&str, &str, Play)] =
            &[$((stringify!($name), $about, |world| stage::play(world, $name::story)),)*];
    };
}

stories! {
    audit_beside_snapshots "a node loses power when it has just made a snapshot: its audit has every record",
    bit_rot_under_repair "a copy rots while its segment is being repaired: the repair takes another one",
    bootstrap_left_in "the first node starts on an empty disk with --bootstrap, and makes no second cluster",
    cannot_store "a node is up and cannot write segments: what it was to copy is copied elsewhere",
    cold_start_on_an_old_directory "all nodes start at once, one on an old copy of its disk: its vote elects nobody",
    copied_directory "a second process starts on a copy of a node's directory, and is refused",
    cut_off_tail "a leader that was cut off drops entries nobody else has, and they do not come back",
    deleted_under_a_reader "a checkpoint is deleted while a client reads it, who is told so at once",
    drained_under_load "a node is drained while clients write, leaders die and it restarts: it ends, and the node can go",
    freed_early "a checkpoint is deleted twice, the second time without its grace: its space comes back early",
    full_disk "a node's disk fills up in the middle of a put, which goes on without it",
    hung_disk_follower "a follower's disk does not answer for half an hour: the node ends and is replaced",
    hung_disk_leader "the leader's disk does not answer for half an hour: another node leads",
    kept_for_its_vote "one voter of three is cut off: another one is not removed, the lost one is",
    leader_loss_in_mid_commit "the leader loses power when all bytes are there and the commit is not",
    leader_out_of_clients_reach "clients do not reach the leader, other nodes do: writes go on",
    lossy_network "three of ten packets are lost and sent again: puts end in seconds, and nobody stands for election",
    maintained "a node in maintenance is away for long: nobody makes its replicas, until the time is over",
    majority_lost "a leader that lost both followers says so, and goes on when one is back",
    marked_checkpoints "refs, holds and a rollback while a policy deletes and a leader dies: what is kept stays, latest is good",
    mixed_sources "different blocks are rotten on two nodes and the third file is gone: all is copied again",
    moved_before_it_registered "a newcomer that has only its number changes places with the first node",
    operator_leaves "an operator leaves in the middle of a restore: no slot stays durable without a file",
    overlapping_saves "two steps are saved at once, the later one is through first: the newest one is kept, by either count",
    power_loss_everywhere "all nodes lose power in the middle of a put",
    put_back_by_command "the only file of a segment is moved to quarantine by hand, and put back by command",
    rack_loss "a rack of two nodes is gone: reads and writes go on",
    read_by_nobody "replicas rot that nobody reads: the scrub finds each within its cycle, and it is made again",
    removed_before_it_caught_up "a node is removed between its registration and its next log entry, and ends",
    removed_leader "a leader that was cut off is removed, and ends when it hears of it",
    removed_voter_of_two "of two nodes the one that votes is removed: its vote goes to the other",
    removed_without_a_leader "a node that knows of no leader is removed, and ends",
    replaced_node "a node dies for good, another one takes its place",
    rolling_restart "every node is restarted in turn, each in the middle of a put",
    rolling_upgrade "nodes of two builds: commands of the newer one are refused until all have it",
    rules_and_trash "rules of a calendar wait for a confirmation while leaders die, let go what they do not keep, and it comes back whole",
    rotten_source "a replica rots that nobody reads: the node that copies it finds it and says so",
    sealed_before_it_began "a part is sealed at the same time as its upload begins: its manifest is read all the same",
    shrunk_to_one "five nodes are removed one by one until one is left",
    slow_disk_follower "one disk is a hundred times slower: no put waits for it",
    slow_manifest "the leader reads a manifest for longer than a caller waits: its part is sealed",
    slow_network "members are 200 ms apart: nobody stands for election, and puts commit",
    speaks_as_another "a process without a node's key speaks as that node: heartbeat, report and vote are refused",
    stolen_token "a token that may write is stolen: it deletes nothing, takes over nothing, and ends when it is revoked",
    streamed_files "two writers add files to an open-ended upload, again and again, while a leader dies: it has the last of each name",
    vanished_file "files of one segment vanish under two running nodes, and the third node dies",
    waited_for_replicas "a target dies while a client waits for all replicas: others are made at once",
    wiped_disk_rejoins "a node loses its disk and comes back as a new member",
    wrong_clock "wall clocks jump by a month: labels stay near the median, or an operator takes them back",
}
