//! Blocks of 32 values.

use super::block::{Block, PART, half, lane};

/// Lower halves of 16 bytes, then upper ones.
#[inline(always)]
fn nibbles(bytes: &[u8], out: &mut [f32; PART], value: impl Fn(i32) -> f32) {
    let bytes = &bytes[..PART / 2];
    for i in 0..PART / 2 {
        out[i] = value(lane(bytes[i]) & 15);
    }
    for i in 0..PART / 2 {
        out[i + PART / 2] = value(lane(bytes[i]) >> 4);
    }
}

/// As [`nibbles`], with a fifth bit for each.
#[inline(always)]
fn fives(bytes: &[u8], high: &[u8], out: &mut [f32; PART], value: impl Fn(i32) -> f32) {
    let bytes = &bytes[..PART / 2];
    let high = i32::from_le_bytes([high[0], high[1], high[2], high[3]]);
    for i in 0..PART / 2 {
        out[i] = value(lane(bytes[i]) & 15 | (high >> i & 1) << 4);
    }
    for i in 0..PART / 2 {
        out[i + PART / 2] = value(lane(bytes[i]) >> 4 | (high >> (i + 16) & 1) << 4);
    }
}

pub(super) struct Q8_0;
impl Block for Q8_0 {
    const PARTS: usize = 1;
    const BYTES: usize = 34;

    type Head = ();

    #[inline(always)]
    fn head(_: &[u8]) {}

    #[inline(always)]
    fn part(b: &[u8], (): &(), _: usize, out: &mut [f32; PART]) {
        let (d, codes) = (half(b, 0), &b[2..][..PART]);
        for i in 0..PART {
            out[i] = f32::from(codes[i] as i8) * d;
        }
    }
}

pub(super) struct Q4_0;
impl Block for Q4_0 {
    const PARTS: usize = 1;
    const BYTES: usize = 18;

    type Head = ();

    #[inline(always)]
    fn head(_: &[u8]) {}

    #[inline(always)]
    fn part(b: &[u8], (): &(), _: usize, out: &mut [f32; PART]) {
        let d = half(b, 0);
        nibbles(
            &b[2..],
            out,
            #[inline(always)]
            |q| d * (q - 8) as f32,
        );
    }
}

pub(super) struct Q4_1;
impl Block for Q4_1 {
    const PARTS: usize = 1;
    const BYTES: usize = 20;

    type Head = ();

    #[inline(always)]
    fn head(_: &[u8]) {}

    #[inline(always)]
    fn part(b: &[u8], (): &(), _: usize, out: &mut [f32; PART]) {
        let (d, min) = (half(b, 0), half(b, 2));
        nibbles(
            &b[4..],
            out,
            #[inline(always)]
            |q| d * q as f32 + min,
        );
    }
}

pub(super) struct Q5_0;
impl Block for Q5_0 {
    const PARTS: usize = 1;
    const BYTES: usize = 22;

    type Head = ();

    #[inline(always)]
    fn head(_: &[u8]) {}

    #[inline(always)]
    fn part(b: &[u8], (): &(), _: usize, out: &mut [f32; PART]) {
        let d = half(b, 0);
        fives(
            &b[6..],
            &b[2..6],
            out,
            #[inline(always)]
            |q| d * (q - 16) as f32,
        );
    }
}

pub(super) struct Q5_1;
impl Block for Q5_1 {
    const PARTS: usize = 1;
    const BYTES: usize = 24;

    type Head = ();

    #[inline(always)]
    fn head(_: &[u8]) {}

    #[inline(always)]
    fn part(b: &[u8], (): &(), _: usize, out: &mut [f32; PART]) {
        let (d, min) = (half(b, 0), half(b, 2));
        fives(
            &b[8..],
            &b[4..8],
            out,
            #[inline(always)]
            |q| d * q as f32 + min,
        );
    }
}
