//! Sealing of short packets with AES in Galois counter mode, on processors with AVX-512.
//!
//! `aws-lc` takes most of its time for a packet of voice with what surrounds the cipher: contexts that are copied and
//! cleared, five calls, and one product of the hash after the other. This does the same with the same instructions, four
//! blocks wide, with the powers of the hash key made once, and keeps all that a leg needs together.
//! It only seals, and only headers of up to 64 bytes and payloads of up to 160: [`Key::seal`] says when it does not, and
//! the caller has `aws-lc` for the rest. Whoever makes a key compares what both give, see `cipher`.
//!
//! No table is looked up and no branch taken by what is secret: what it uses takes the same time for all values.
//!
//! Sources: NIST SP 800-38D; Gueron and Kounavis, "Intel Carry-Less Multiplication Instruction and its Usage for Computing
//! the GCM Mode"; RFC 8452 §3 and appendix A for the hash without its reflected bits.
#![expect(
    unsafe_code,
    reason = "instructions that not every processor has, and loads and stores under a mask"
)]

use std::arch::x86_64::{
    __m128i, __m512i, _MM_HINT_T0, _mm_aeskeygenassist_si128, _mm_clmulepi64_si128, _mm_cvtsi128_si64,
    _mm_extract_epi64, _mm_prefetch, _mm_set_epi8, _mm_set_epi32, _mm_set_epi64x, _mm_shuffle_epi32,
    _mm_slli_si128, _mm_xor_si128, _mm256_castsi256_si128, _mm256_extracti128_si256, _mm256_xor_si256,
    _mm512_aesenc_epi128, _mm512_aesenclast_epi128, _mm512_broadcast_i32x4, _mm512_bslli_epi128,
    _mm512_bsrli_epi128, _mm512_castsi512_si128, _mm512_castsi512_si256, _mm512_clmulepi64_epi128,
    _mm512_extracti32x4_epi32, _mm512_extracti64x4_epi64, _mm512_mask_mov_epi64, _mm512_mask_storeu_epi8,
    _mm512_maskz_loadu_epi8, _mm512_maskz_mov_epi8, _mm512_or_si512, _mm512_set_epi32, _mm512_set_epi64,
    _mm512_setzero_si512, _mm512_shuffle_epi8, _mm512_xor_si512, _mm512_zextsi128_si512,
};
use std::fmt;
use std::num::NonZeroUsize;

use zeroize::Zeroize;

/// A key: its schedule, and powers of its hash key. It is wiped where it is dropped; one that is moved leaves itself behind.
#[repr(align(16))]
pub(super) struct Key {
    schedule: [Block; 15],
    /// 10 or 14; not zero, so that no key takes no room of its own.
    rounds: NonZeroUsize,
    /// H¹⁵ … H¹, in the form of RFC 8452; what is behind them multiplies zeros alone.
    powers: [Block; POWERS + SPARE],
}

/// 128 bits, the lower half first.
type Block = [u64; 2];

const POWERS: usize = 15;
const SPARE: usize = 4;
const TAG: usize = 16;
/// Blocks in a vector.
const LANES: usize = 4;
const CACHE_LINE: usize = 64;
const MAX_AAD: usize = 64;
const MAX_PLAIN: usize = 160;

impl Key {
    /// Makes the key in its place, where it is to stay; what the compiler had no register for meanwhile is not wiped. `None`,
    /// and the place is empty, if the processor lacks an instruction, or the key has not 16 or 32 bytes.
    pub(super) fn expand<'a>(place: &'a mut Option<Self>, key: &[u8]) -> Option<&'a Self> {
        *place = None;
        let able = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("vaes")
            && is_x86_feature_detected!("vpclmulqdq")
            && is_x86_feature_detected!("aes")
            && is_x86_feature_detected!("pclmulqdq");
        // SAFETY: all the features that it needs are there; those below AVX-512 come with it.
        if able { unsafe { expand(place, key) } } else { None }
    }

    /// Encrypts `plain` into `cipher`; the tag. `None`, with nothing done, if header or payload is too long.
    ///
    /// # Panics
    /// Unless `cipher` has the length of `plain`.
    #[inline]
    pub(super) fn seal(
        &self,
        nonce: &[u8; 12],
        aad: &[u8],
        plain: &[u8],
        cipher: &mut [u8],
    ) -> Option<[u8; TAG]> {
        if aad.len() > MAX_AAD || plain.len() > MAX_PLAIN {
            return None;
        }
        // SAFETY: there is a key only where `Key::expand` has found the features.
        Some(unsafe {
            // Blocks of payload, and one for the lengths, and one whose stream hides the tag.
            match (plain.len().div_ceil(16) + 2).div_ceil(LANES) {
                1 => seal::<1>(self, nonce, aad, plain, cipher),
                2 => seal::<2>(self, nonce, aad, plain, cipher),
                _ => seal::<3>(self, nonce, aad, plain, cipher),
            }
        })
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys stay out of logs.
        f.debug_struct("Key").field("rounds", &self.rounds).finish_non_exhaustive()
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.schedule.zeroize();
        self.powers.zeroize();
    }
}

macro_rules! able {
    ($($item:item)*) => {$(
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,vaes,vpclmulqdq,aes,pclmulqdq")]
        $item
    )*};
}

able! {
/// `N` vectors: the payload's blocks, in the lane behind them the lengths, and in the last lane the tag's mask.
fn seal<const N: usize>(key: &Key, nonce: &[u8; 12], aad: &[u8], plain: &[u8], cipher: &mut [u8]) -> [u8; TAG] {
    assert_eq!(plain.len(), cipher.len(), "a ciphertext is as long as what is encrypted");
    let blocks = plain.len().div_ceil(16);
    let word = |at: usize| i32::from_le_bytes([nonce[at], nonce[at + 1], nonce[at + 2], nonce[at + 3]]);
    let start = _mm512_broadcast_i32x4(_mm_set_epi32(0, word(8), word(4), word(0)));
    let mut stream = [start; N];
    for (at, vector) in stream.iter_mut().enumerate() {
        let counter = |lane: usize| {
            let last = at == N - 1 && lane == LANES - 1;
            let counter = if last { 1 } else { (at * LANES + lane + 2) as u32 };
            counter.swap_bytes().cast_signed()
        };
        let counters = _mm512_set_epi32(
            counter(3), 0, 0, 0, counter(2), 0, 0, 0, counter(1), 0, 0, 0, counter(0), 0, 0, 0,
        );
        *vector = _mm512_or_si512(*vector, counters);
    }
    let stream = encrypt(key, stream);
    let mask = _mm512_extracti32x4_epi32::<3>(stream[N - 1]);
    let header_blocks = aad.len().div_ceil(16);
    let mut product = Product::zero();
    product.add(load(aad), powers(key, POWERS - 1 - header_blocks - blocks));
    let bits = |length: usize| (length as u64 * 8).swap_bytes();
    let lengths = _mm512_broadcast_i32x4(of([bits(aad.len()), bits(plain.len())]));
    for (at, stream) in stream.into_iter().enumerate() {
        let from = (at * 64).min(plain.len());
        let to = (at * 64 + 64).min(plain.len());
        let here = _mm512_maskz_mov_epi8(bytes(to - from), _mm512_xor_si512(stream, load(&plain[from..to])));
        store(&mut cipher[from..to], here);
        let lane = if blocks / LANES == at { 0b11 << (blocks % LANES * 2) } else { 0 };
        let here = _mm512_mask_mov_epi64(here, lane, lengths);
        product.add(here, powers(key, POWERS - 1 + at * LANES - blocks));
    }
    let tag = _mm_xor_si128(reverse_block(product.reduce()), mask);
    let [low, high] = halves(tag);
    (u128::from(low) | u128::from(high) << 64).to_le_bytes()
}

/// AES of vectors side by side.
#[inline]
fn encrypt<const N: usize>(key: &Key, mut vectors: [__m512i; N]) -> [__m512i; N] {
    let round = |at: usize| _mm512_broadcast_i32x4(of(key.schedule[at]));
    let first = round(0);
    vectors.iter_mut().for_each(|vector| *vector = _mm512_xor_si512(*vector, first));
    for at in 1..key.rounds.get() {
        let key = round(at);
        vectors.iter_mut().for_each(|vector| *vector = _mm512_aesenc_epi128(*vector, key));
    }
    let last = round(key.rounds.get());
    vectors.iter_mut().for_each(|vector| *vector = _mm512_aesenclast_epi128(*vector, last));
    vectors
}

fn expand<'a>(place: &'a mut Option<Key>, bytes: &[u8]) -> Option<&'a Key> {
    let rounds = NonZeroUsize::new(match bytes.len() { 16 => 10, 32 => 14, _ => return None })?;
    let key = place.insert(Key { schedule: [[0; 2]; 15], rounds, powers: [[0; 2]; POWERS + SPARE] });
    schedule(bytes, &mut key.schedule);
    let [zero] = encrypt(key, [_mm512_setzero_si512()]);
    let hash_key = double(halves(reverse_block(_mm512_castsi512_si128(zero))));
    let mut power = hash_key;
    for at in (0..POWERS).rev() {
        key.powers[at] = power;
        let mut product = Product::zero();
        let wide = |block| _mm512_zextsi128_si512(of(block));
        // `add` reverses what it is given: the hash of a message is of its bytes from the left.
        product.add(reverse(wide(power)), wide(hash_key));
        power = halves(product.reduce());
    }
    Some(key)
}

/// FIPS 197 §5.2, of 16 or 32 bytes.
fn schedule(bytes: &[u8], schedule: &mut [Block; 15]) {
    // Each word of the block before xor all those before it, and a word of the last one, substituted.
    let next = |before: __m128i, word: __m128i| {
        let pairs = _mm_xor_si128(before, _mm_slli_si128::<4>(before));
        _mm_xor_si128(_mm_xor_si128(pairs, _mm_slli_si128::<8>(pairs)), word)
    };
    macro_rules! round {
        ($back:literal: $($at:literal $constant:literal),*) => {$(
            let word = _mm_aeskeygenassist_si128::<$constant>(of(schedule[$at - 1]));
            schedule[$at] = halves(next(of(schedule[$at - $back]), _mm_shuffle_epi32::<0xff>(word)));
            let word = _mm_aeskeygenassist_si128::<0>(of(schedule[$at]));
            let after = next(of(schedule[$at - 1]), _mm_shuffle_epi32::<0xaa>(word));
            if let Some(place) = schedule.get_mut($at + 1).filter(|_| $back == 2) {
                *place = halves(after);
            }
        )*};
    }
    match bytes.as_chunks() {
        ([first], []) => {
            schedule[0] = halves(block(first));
            round!(1: 1 0x01, 2 0x02, 3 0x04, 4 0x08, 5 0x10, 6 0x20, 7 0x40, 8 0x80, 9 0x1b, 10 0x36);
        }
        ([first, second], []) => {
            (schedule[0], schedule[1]) = (halves(block(first)), halves(block(second)));
            round!(2: 2 0x01, 4 0x02, 6 0x04, 8 0x08, 10 0x10, 12 0x20, 14 0x40);
        }
        _ => unreachable!("whoever calls has looked at the length"),
    }
}

/// Four powers from a place on.
#[inline]
fn powers(key: &Key, from: usize) -> __m512i {
    let powers: &[Block; LANES] = key.powers[from..].first_chunk().expect("spare blocks are behind the powers");
    let [[a, b], [c, d], [e, f], [g, h]] = powers.map(|power| power.map(u64::cast_signed));
    _mm512_set_epi64(h, g, f, e, d, c, b, a)
}

/// Up to 64 bytes, and zeros behind them.
#[inline]
fn load(from: &[u8]) -> __m512i {
    // SAFETY: no byte is read whose bit is not set, and those are the slice's.
    unsafe { _mm512_maskz_loadu_epi8(bytes(from.len()), from.as_ptr().cast()) }
}

/// The first bytes of a vector, as many as there is room for.
#[inline]
fn store(to: &mut [u8], vector: __m512i) {
    // SAFETY: no byte is written whose bit is not set, and those are the slice's.
    unsafe { _mm512_mask_storeu_epi8(to.as_mut_ptr().cast(), bytes(to.len()), vector) }
}

#[inline]
fn reverse(vector: __m512i) -> __m512i {
    let order = _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    _mm512_shuffle_epi8(vector, _mm512_broadcast_i32x4(order))
}

#[inline]
fn reverse_block(block: __m128i) -> __m128i {
    _mm512_castsi512_si128(reverse(_mm512_zextsi128_si512(block)))
}

#[inline]
fn of([low, high]: Block) -> __m128i {
    _mm_set_epi64x(high.cast_signed(), low.cast_signed())
}

#[inline]
fn halves(block: __m128i) -> Block {
    [_mm_cvtsi128_si64(block).cast_unsigned(), _mm_extract_epi64::<1>(block).cast_unsigned()]
}

#[inline]
fn block(bytes: &[u8; 16]) -> __m128i {
    let number = u128::from_le_bytes(*bytes);
    of([number as u64, (number >> 64) as u64])
}
}

/// Asks memory for a value that is needed soon, so that its answer waits in the cache.
#[inline]
pub(crate) fn prefetch<T>(value: &T) {
    let start = std::ptr::from_ref(value).cast::<i8>();
    for at in (0..size_of::<T>()).step_by(CACHE_LINE) {
        // SAFETY: every x86-64 processor has the instruction. It is a hint, of any address, and changes no memory.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(at)) };
    }
}

/// A bit for each of the first bytes, 64 at most.
#[inline]
fn bytes(count: usize) -> u64 {
    assert!(count <= 64, "a vector has 64 bytes");
    if count == 64 { u64::MAX } else { (1 << count) - 1 }
}

/// RFC 8452 appendix A: x times the hash key, so that products need no shift.
fn double([low, high]: Block) -> Block {
    let carry = high >> 63;
    [low << 1 ^ carry, (high << 1 | low >> 63) ^ (carry * 0xc200_0000_0000_0000)]
}

/// Sums of products of 128 bits each, lane by lane, not reduced.
struct Product {
    low: __m512i,
    middle: __m512i,
    high: __m512i,
}

impl Product {
    able! {
    #[inline]
    fn zero() -> Self {
        let zero = _mm512_setzero_si512();
        Self { low: zero, middle: zero, high: zero }
    }

    /// Adds blocks of a message times powers.
    #[inline]
    fn add(&mut self, blocks: __m512i, powers: __m512i) {
        let blocks = reverse(blocks);
        let crossed = _mm512_xor_si512(
            _mm512_clmulepi64_epi128::<0x01>(blocks, powers),
            _mm512_clmulepi64_epi128::<0x10>(blocks, powers),
        );
        self.low = _mm512_xor_si512(self.low, _mm512_clmulepi64_epi128::<0x00>(blocks, powers));
        self.high = _mm512_xor_si512(self.high, _mm512_clmulepi64_epi128::<0x11>(blocks, powers));
        self.middle = _mm512_xor_si512(self.middle, crossed);
    }

    /// The sum of all lanes modulo x¹²⁸ + x¹²⁷ + x¹²⁶ + x¹²¹ + 1, times x⁻¹²⁸: 64 bits are folded at a time.
    #[inline]
    fn reduce(&self) -> __m128i {
        let low = _mm512_xor_si512(self.low, _mm512_bslli_epi128::<8>(self.middle));
        let high = _mm512_xor_si512(self.high, _mm512_bsrli_epi128::<8>(self.middle));
        let sum = |vector: __m512i| {
            let pair = _mm256_xor_si256(_mm512_castsi512_si256(vector), _mm512_extracti64x4_epi64::<1>(vector));
            _mm_xor_si128(_mm256_castsi256_si128(pair), _mm256_extracti128_si256::<1>(pair))
        };
        let (mut folded, high) = (sum(low), sum(high));
        let polynomial = of([0xc200_0000_0000_0000, 0]);
        for _ in 0..2 {
            let times = _mm_clmulepi64_si128::<0x00>(folded, polynomial);
            folded = _mm_xor_si128(_mm_shuffle_epi32::<0x4e>(folded), times);
        }
        _mm_xor_si128(high, folded)
    }
    }
}
