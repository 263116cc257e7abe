//! Names of sessions that people can say over the phone: `golden-eagle-427`.
//!
//! Not a secret: about 11 million names, enough not to meet by accident. Who may speak or listen is for tokens
//! to say.

use std::fmt;

use serde::Serialize;

/// The name of a session: two words and a number, or `demo`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct SessionId(String);

impl SessionId {
    /// A random name; whether it is free is the directory's to check.
    pub fn random() -> Self {
        let adjective = ADJECTIVES[rand::random_range(0..ADJECTIVES.len())];
        let animal = ANIMALS[rand::random_range(0..ANIMALS.len())];
        let number = rand::random_range(100..1000);
        Self(format!("{adjective}-{animal}-{number}"))
    }

    /// The fixed name of the demo session.
    pub fn demo() -> Self {
        Self("demo".to_owned())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for SessionId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[rustfmt::skip]
const ADJECTIVES: &[&str] = &[
    "able", "agile", "amber", "ample", "apt", "autumn", "azure", "bold", "brave", "breezy", "bright", "brisk", "bronze",
    "calm", "candid", "cheery", "chilly", "civil", "clear", "clever", "cobalt", "copper", "coral", "cosmic", "cozy",
    "crimson", "crisp", "curious", "dapper", "daring", "dawn", "deep", "eager", "early", "easy", "elder", "emerald",
    "fair", "fancy", "fast", "fine", "fleet", "fond", "fresh", "frosty", "gentle", "giant", "glad", "golden", "grand",
    "green", "happy", "hardy", "hazel", "honest", "humble", "icy", "indigo", "ivory", "jade", "jolly", "keen", "kind",
    "lively", "loyal", "lucky", "lunar", "maple", "mellow", "merry", "mild", "misty", "modest", "noble", "north", "olive",
    "opal", "patient", "pearl", "placid", "polar", "proud", "quick", "quiet", "rapid", "red", "royal", "ruby", "rustic",
    "sandy", "scarlet", "serene", "sharp", "silent", "silver", "simple", "smooth", "solar", "solid", "spry", "stellar",
    "still", "sunny", "swift", "tidy", "tranquil", "true", "velvet", "violet", "vivid", "warm", "white", "wild", "wise",
];

#[rustfmt::skip]
const ANIMALS: &[&str] = &[
    "albatross", "antelope", "badger", "bear", "beaver", "bison", "blackbird", "bobcat", "buffalo", "camel", "canary",
    "caribou", "cat", "cheetah", "condor", "cougar", "coyote", "crane", "cricket", "curlew", "deer", "dingo", "dolphin",
    "dove", "dragonfly", "duck", "eagle", "egret", "elk", "falcon", "ferret", "finch", "firefly", "fox", "gazelle",
    "gecko", "gibbon", "giraffe", "goose", "gopher", "grouse", "hare", "harrier", "hawk", "hedgehog", "heron", "horse",
    "hummingbird", "ibex", "ibis", "iguana", "impala", "jackal", "jaguar", "jay", "kestrel", "kingfisher", "kiwi",
    "koala", "lark", "lemur", "leopard", "lion", "lizard", "llama", "lynx", "magpie", "marmot", "marten", "meerkat",
    "mink", "moose", "narwhal", "newt", "nightingale", "ocelot", "orca", "oriole", "osprey", "otter", "owl", "panda",
    "panther", "parrot", "pelican", "penguin", "petrel", "pheasant", "puffin", "puma", "quail", "rabbit", "raccoon",
    "raven", "reindeer", "robin", "salmon", "sandpiper", "seal", "sparrow", "squirrel", "starling", "stork", "swan",
    "swift", "tern", "thrush", "tiger", "toucan", "turtle", "walrus", "weasel", "whale", "wolf", "wombat", "wren",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_two_words_and_a_number() {
        for _ in 0..1000 {
            let id = SessionId::random();
            let parts: Vec<&str> = id.as_str().split('-').collect();
            assert_eq!(parts.len(), 3, "{id}");
            assert!(parts[..2].iter().all(|word| word.bytes().all(|byte| byte.is_ascii_lowercase())), "{id}");
            assert!((100..1000).contains(&parts[2].parse::<u32>().unwrap()), "{id}");
        }
    }

    #[test]
    fn words_are_distinct_and_many_enough() {
        for words in [ADJECTIVES, ANIMALS] {
            let distinct: std::collections::BTreeSet<_> = words.iter().collect();
            assert_eq!(distinct.len(), words.len());
            assert!(words.len() >= 100);
        }
    }
}
