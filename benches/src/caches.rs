//! What the kernel's work does to the processor's caches between two packets, without the kernel: they are emptied.

/// Memory that is walked so that nothing else stays in the caches.
#[derive(Debug)]
pub struct Caches {
    memory: Vec<u64>,
}

impl Default for Caches {
    fn default() -> Self {
        Self { memory: vec![1; BYTES / 8] }
    }
}

impl Caches {
    /// Fills them with what nobody needs.
    pub fn empty(&mut self) {
        for word in self.memory.iter_mut().step_by(8) {
            *word = std::hint::black_box(*word) + 1;
        }
    }
}

/// Twice a third-level cache.
const BYTES: usize = 64 << 20;
