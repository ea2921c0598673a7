//! How long many operations took, each.

use std::time::Duration;

use serde::Serialize;

pub struct Latencies {
    sorted_ms: Vec<f64>,
    per_second: f64,
}

impl Latencies {
    pub fn new(mut latencies_ms: Vec<f64>, elapsed: Duration) -> Self {
        latencies_ms.sort_by(f64::total_cmp);
        let per_second = latencies_ms.len() as f64 / elapsed.as_secs_f64().max(1e-9);
        Self { sorted_ms: latencies_ms, per_second }
    }

    /// By nearest rank: the smallest that so many in a hundred do not exceed.
    pub fn at(&self, percentile: usize) -> f64 {
        let rank = (self.sorted_ms.len() * percentile).div_ceil(100);
        self.sorted_ms.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
    }

    pub fn document(&self) -> LatencyRecord {
        LatencyRecord {
            operations: self.sorted_ms.len(),
            per_second: self.per_second,
            p50_ms: self.at(50),
            p90_ms: self.at(90),
            p99_ms: self.at(99),
            max_ms: self.at(100),
        }
    }

    pub fn row(&self, name: &str) -> Vec<String> {
        let ms = |percentile| format!("{:.2}", self.at(percentile));
        let rate = format!("{:.0}", self.per_second);
        vec![name.to_owned(), rate, ms(50), ms(90), ms(99), ms(100)]
    }
}

/// In `bench put`, `get` and `meta`.
#[derive(Serialize)]
pub struct LatencyRecord {
    operations: usize,
    per_second: f64,
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let of = |sorted: &[f64]| Latencies::new(sorted.to_vec(), Duration::from_secs(1));
        let three = of(&[3.0, 1.0, 2.0]);
        assert_eq!([50, 90, 99, 100].map(|percentile| three.at(percentile)), [2.0, 3.0, 3.0, 3.0]);
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!([50, 90, 99, 100].map(|p| of(&hundred).at(p)), [50.0, 90.0, 99.0, 100.0]);
        assert_eq!(of(&[]).at(99).to_bits(), 0.0_f64.to_bits());
    }
}
