//! Scales under which whole numbers come nearest to given ones: what the K types are encoded with. The steps are ggml's, in
//! its order, so that sums round as they do there.

/// Below this, numbers count as zero (`GROUP_MAX_EPS`).
pub(super) const NOTHING: f32 = 1e-15;

/// The nearest whole number, ties to even, of one whose size is below 2²² (`nearest_int`): the lower bits of x + 1.5·2²³.
pub(super) fn nearest(x: f32) -> i32 {
    ((x + 12_582_912.0).to_bits() & 0x007f_ffff) as i32 - 0x0040_0000
}

/// A scale, the minimum with its sign changed, and codes from 0 to `most`, so that the errors of scale · code + minimum are
/// small, those of large numbers above all (`make_qkx2_quants`). Tried are the scales that put `most + first`,
/// `most + first + 0.1`, … steps between the extremes.
pub(super) fn scale_and_least(x: &[f32], codes: &mut [u8], most: u8, first: f32, steps: u8) -> (f32, f32) {
    let squares = x.iter().fold(0.0f32, |sum, v| sum + v * v);
    let mean = (squares / x.len() as f32).sqrt();
    let weight = |v: f32| mean + v.abs();
    let (mut least, mut largest) = (x[0], x[0]);
    let (mut sum_w, mut sum_x) = (weight(x[0]), weight(x[0]) * x[0]);
    for &v in &x[1..] {
        if v < least {
            least = v;
        }
        if v > largest {
            largest = v;
        }
        sum_w += weight(v);
        sum_x += weight(v) * v;
    }
    if least > 0.0 {
        least = 0.0;
    }
    codes.fill(0);
    if largest == least {
        return (0.0, -least);
    }
    let code = |v: f32, inverse: f32, least: f32| nearest(inverse * (v - least)).clamp(0, i32::from(most)) as u8;
    let inverse = f32::from(most) / (largest - least);
    let mut scale = 1.0 / inverse;
    let error = |codes: &[u8], scale: f32, least: f32| {
        x.iter().zip(codes).fold(0.0f32, |sum, (&v, &q)| {
            let off = scale * f32::from(q) + least - v;
            sum + weight(v) * (off * off)
        })
    };
    codes.iter_mut().zip(x).for_each(|(q, v)| *q = code(*v, inverse, least));
    let mut best = error(codes, scale, least);
    let mut tried = vec![0; x.len()];
    for step in 0..=steps {
        // ggml goes on from the minimum that it found last.
        let inverse = (first + 0.1 * f32::from(step) + f32::from(most)) / (largest - least);
        let (mut sum_l, mut sum_l2, mut sum_xl) = (0.0f32, 0.0f32, 0.0f32);
        for (q, &v) in tried.iter_mut().zip(x) {
            *q = code(v, inverse, least);
            let (l, w) = (f32::from(*q), weight(v));
            sum_l += w * l;
            sum_l2 += w * l * l;
            sum_xl += w * l * v;
        }
        let determinant = sum_w * sum_l2 - sum_l * sum_l;
        if determinant > 0.0 {
            let mut this_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
            let mut this_least = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
            if this_least > 0.0 {
                (this_least, this_scale) = (0.0, sum_xl / sum_l2);
            }
            let this_error = error(&tried, this_scale, this_least);
            if this_error < best {
                codes.copy_from_slice(&tried);
                (best, scale, least) = (this_error, this_scale, this_least);
            }
        }
    }
    (scale, -least)
}

/// A scale of either sign, and codes from 0 to 2 · `most` − 1, so that the errors of scale · (code − `most`) are small, those
/// of large numbers above all (`make_qx_quants` with weights x²).
pub(super) fn signed_scale(x: &[f32], codes: &mut [u8], most: u8) -> f32 {
    let largest = x.iter().fold(0.0f32, |most, v| if v.abs() > most.abs() { *v } else { most });
    codes.fill(0);
    if largest.abs() < NOTHING {
        return 0.0;
    }
    let top = i32::from(most);
    let code = |v: f32, inverse: f32| nearest(inverse * v).clamp(-top, top - 1);
    let sums = |inverse: f32| {
        x.iter().fold((0.0f32, 0.0f32), |(lx, l2), &v| {
            let (l, w) = (code(v, inverse) as f32, v * v);
            (lx + w * v * l, l2 + w * l * l)
        })
    };
    let mut put = |inverse: f32| {
        codes.iter_mut().zip(x).for_each(|(q, v)| *q = (code(*v, inverse) + top) as u8);
    };
    let inverse = -f32::from(most) / largest;
    put(inverse);
    let (lx, l2) = sums(inverse);
    let mut scale = if l2 == 0.0 { 0.0 } else { lx / l2 };
    let mut best = scale * lx;
    for step in (-9i8..=9).filter(|step| *step != 0) {
        let inverse = -(f32::from(most) + 0.1 * f32::from(step)) / largest;
        let (lx, l2) = sums(inverse);
        if l2 > 0.0 && lx * lx > best * l2 {
            put(inverse);
            scale = lx / l2;
            best = scale * lx;
        }
    }
    scale
}
