//! Named scenarios that read as what they are: one fault each, and what must hold.

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
    bit_rot_under_repair "a copy rots while its segment is being repaired: the repair takes another one",
    copied_directory "a second process starts on a copy of a node's directory, and is refused",
    full_disk "a node's disk fills up in the middle of a put, which goes on without it",
    leader_loss_in_mid_commit "the leader loses power when all bytes are there and the commit is not",
    moved_before_it_registered "a newcomer that has only its number changes places with the first node",
    power_loss_everywhere "all nodes lose power in the middle of a put",
    rack_loss "a rack of two nodes is gone: reads and writes go on",
    removed_before_it_caught_up "a node is removed between its registration and its next log entry, and ends",
    removed_leader "a leader that was cut off is removed, and ends when it hears of it",
    removed_without_a_leader "a node that knows of no leader is removed, and ends",
    replaced_node "a node dies for good, another one takes its place",
    rolling_restart "every node is restarted in turn, each in the middle of a put",
    slow_disk_follower "one disk is a hundred times slower: no put waits for it",
    wiped_disk_rejoins "a node loses its disk and comes back as a new member",
}
