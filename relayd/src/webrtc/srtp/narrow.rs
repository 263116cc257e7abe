//! What stands in for `wide` where a processor has none of it: nothing.

/// There is none.
#[derive(Debug)]
pub(super) enum Key {}

impl Key {
    pub(super) const fn expand<'a>(_: &'a mut Option<Self>, _: &[u8]) -> Option<&'a Self> {
        None
    }

    pub(super) fn seal(&self, _: &[u8; 12], _: &[u8], _: &[u8], _: &mut [u8]) -> Option<[u8; 16]> {
        match *self {}
    }
}

/// Nobody is asked.
pub(crate) const fn prefetch<T>(_: &T) {}
