//! Sizes of memory on the command line.

/// Bytes from a number with a unit, such as 512MB or 4GiB.
pub fn size(text: &str) -> std::result::Result<usize, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: f64 = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "t" | "tb" => 1e12,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        other => return Err(format!("`{other}` is no unit: give B, KB, MB, GB, TB, KiB, MiB or GiB")),
    };
    let number: f64 = digits.trim().parse().map_err(|_| "give a number and a unit, such as 512MB".to_owned())?;
    if number.is_finite() && number >= 0.0 {
        Ok((number * unit) as usize)
    } else {
        Err("give a size of 0 or more".into())
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [("24GB", 24_000_000_000), ("1.5 GiB", 1_610_612_736), ("512", 512), ("8m", 8_000_000)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        assert!(size("24 parsecs").is_err() && size("GB").is_err());
    }
}
