//! Which shard a track is fed on, and which of them sends to a listener. Pure: loads in, a number out.
//!
//! A track's home is where its publisher's packets go and its events come from. Its first listeners are there too, since
//! a track that is on one shard costs the others nothing; beyond `spill` they go wherever least is to be done. One that does
//! not answer looks idle, and gets nothing new while there is another.

/// A shard, as it is now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct ShardLoad {
    /// Its thread has not ended.
    pub alive: bool,
    /// It has not answered in time, and not since.
    pub stalled: bool,
    /// Listeners of all tracks.
    pub listeners: usize,
    /// Tracks whose home it is.
    pub homes: usize,
}

/// The home of a new track: of the shards that answer the one with the fewest listeners, and of those the one with the
/// fewest tracks. None, if no shard is alive.
pub(super) fn home(shards: &[ShardLoad]) -> Option<usize> {
    let alive = shards.iter().enumerate().filter(|(_, shard)| shard.alive);
    alive
        .min_by_key(|(number, shard)| (shard.stalled, shard.listeners, shard.homes, *number))
        .map(|(number, _)| number)
}

/// Where a listener of a track goes: home, until `spill` of the track's are there; then to the shard with the fewest
/// listeners of those that answer, of equal ones rather home or where the track is already.
pub(super) fn listener(
    home: usize,
    at_home: usize,
    spill: usize,
    shards: &[ShardLoad],
    has_track: impl Fn(usize) -> bool,
) -> usize {
    if at_home < spill {
        return home;
    }
    let alive = shards.iter().enumerate().filter(|(_, shard)| shard.alive);
    let least = alive.min_by_key(|&(number, shard)| {
        (shard.stalled, shard.listeners, number != home, !has_track(number), number)
    });
    least.map_or(home, |(number, _)| number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shards<const N: usize>(listeners: [usize; N]) -> [ShardLoad; N] {
        listeners.map(|listeners| ShardLoad { alive: true, listeners, ..ShardLoad::default() })
    }

    #[test]
    fn a_track_is_fed_where_there_are_the_fewest_listeners_then_tracks() {
        assert_eq!(home(&shards([3, 1, 2])), Some(1));
        let mut all = shards([0; 3]);
        let homes: Vec<usize> = (0..7)
            .map(|_| {
                let home = home(&all).unwrap();
                all[home].homes += 1;
                home
            })
            .collect();
        assert_eq!(homes, [0, 1, 2, 0, 1, 2, 0]);
        all[2].alive = false;
        all[0].listeners = 9;
        assert_eq!(home(&all), Some(1));
        all[1].stalled = true;
        assert_eq!(home(&all), Some(0), "it only looks idle");
        assert_eq!(home(&[]), None);
        assert_eq!(home(&[ShardLoad::default(); 2]), None, "all have ended");
    }

    /// Where `count` listeners of a track go, one after the other: how many are on each shard.
    fn spread<const N: usize>(
        all: &mut [ShardLoad; N],
        home: usize,
        spill: usize,
        count: usize,
    ) -> [usize; N] {
        let mut of_track = [0; N];
        for _ in 0..count {
            let to = listener(home, of_track[home], spill, all, |shard| of_track[shard] > 0);
            of_track[to] += 1;
            all[to].listeners += 1;
        }
        of_track
    }

    #[test]
    fn listeners_stay_home_until_it_spills_and_then_all_shards_have_as_many() {
        assert_eq!(spread(&mut shards([0; 3]), 1, 256, 256), [0, 256, 0]);
        assert_eq!(spread(&mut shards([0; 3]), 1, 256, 700), [222, 256, 222]);
        assert_eq!(spread(&mut shards([0; 3]), 0, 256, 3_000), [1_000; 3]);
        assert_eq!(spread(&mut shards([0; 1]), 0, 256, 1_000), [1_000]);
        assert_eq!(spread(&mut shards([0; 2]), 0, 0, 10), [5, 5], "spilling at once");
    }

    #[test]
    fn who_spills_goes_where_least_is_to_be_done() {
        assert_eq!(spread(&mut shards([0, 500, 20]), 0, 10, 100), [60, 0, 40]);
        let mut all = shards([300, 7, 7]);
        assert_eq!(listener(0, 300, 256, &all, |shard| shard == 2), 2, "rather where the track is");
        assert_eq!(listener(0, 255, 256, &all, |_| true), 0);
        all[2].stalled = true;
        assert_eq!(listener(0, 300, 256, &all, |shard| shard == 2), 1);
        all[1].stalled = true;
        assert_eq!(listener(0, 300, 256, &all, |_| true), 0, "it only is at work");
        all[0].stalled = true;
        assert_eq!(listener(0, 300, 256, &all, |_| true), 1, "one like the other");
        all[1].alive = false;
        all[2].alive = false;
        assert_eq!(listener(0, 300, 256, &all, |_| true), 0);
        all[0].alive = false;
        assert_eq!(listener(0, 300, 256, &all, |_| true), 0, "who asks there is told");
    }
}
