//! Medians with their spread, and the table that they stand in.

/// What several rounds have measured: every comparison shows its median, least and greatest value.
#[derive(Debug, Default, Clone)]
pub struct Rounds(Vec<f64>);

impl Rounds {
    pub fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    /// Round by round, for contenders that took turns.
    pub fn per_round(&self, other: &Rounds, with: impl Fn(f64, f64) -> f64) -> Rounds {
        Rounds(self.0.iter().zip(&other.0).map(|(one, other)| with(*one, *other)).collect())
    }

    pub fn median(&self) -> f64 {
        quantile(&self.0, 0.5)
    }

    /// The worst round counts for limits.
    pub fn greatest(&self) -> f64 {
        quantile(&self.0, 1.0)
    }

    fn least(&self) -> f64 {
        quantile(&self.0, 0.0)
    }
}

/// The value below which this part (0 to 1) of the values is. Not a number if there are none.
pub fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = (part * sorted.len().saturating_sub(1) as f64).round();
    sorted.get(place as usize).copied().unwrap_or(f64::NAN)
}

/// The unit of a line of the table.
#[derive(Clone, Copy)]
pub enum Unit {
    PerSecond,
    Milliseconds,
    Seconds,
    Mebibytes,
    Bytes,
    Frames,
    Ratio,
    WakeUps,
    Syncs,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Unit::PerSecond => "records/s",
            Unit::Milliseconds => "ms",
            Unit::Seconds => "s",
            Unit::Mebibytes => "MiB",
            Unit::Bytes => "bytes",
            Unit::Frames => "frames",
            Unit::Ratio => "×",
            Unit::WakeUps | Unit::Syncs => "/s",
        }
    }

    fn show(self, value: f64) -> String {
        match self {
            Unit::PerSecond | Unit::Bytes | Unit::Frames => thousands(value),
            Unit::Milliseconds | Unit::Seconds => format!("{value:.3}"),
            Unit::Mebibytes | Unit::Ratio | Unit::WakeUps | Unit::Syncs => format!("{value:.2}"),
        }
    }
}

fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// What was promised of a line.
#[derive(Clone, Copy)]
pub enum Target {
    /// The median is at least this.
    AtLeast(f64),
    /// The median is more than this.
    MoreThan(f64),
    /// The median is less than this.
    LessThan(f64),
    /// The median is at most this.
    AtMost(f64),
    /// No round is at or over this.
    NeverOver(f64),
}

impl Target {
    fn is_met(self, rounds: &Rounds) -> bool {
        match self {
            Target::AtLeast(limit) => rounds.median() >= limit,
            Target::MoreThan(limit) => rounds.median() > limit,
            Target::LessThan(limit) => rounds.median() < limit,
            Target::AtMost(limit) => rounds.median() <= limit,
            Target::NeverOver(limit) => rounds.greatest() < limit,
        }
    }

    fn text(self) -> String {
        match self {
            Target::AtLeast(limit) => format!("≥ {limit}"),
            Target::MoreThan(limit) => format!("> {limit}"),
            Target::LessThan(limit) => format!("< {limit}"),
            Target::AtMost(limit) => format!("≤ {limit}"),
            Target::NeverOver(limit) => format!("always < {limit}"),
        }
    }
}

/// How many targets there were, and which were missed.
#[derive(Default)]
pub struct Verdict {
    heading: String,
    targets: usize,
    missed: Vec<String>,
}

impl Verdict {
    /// The heading of a part.
    pub fn part(&mut self, title: &str, rounds: usize) {
        title.clone_into(&mut self.heading);
        println!("\n{title}");
        let columns = format!("median of {rounds}");
        println!("  {:<50}{columns:>20}  {:<27}{:<16}met", "", "least … greatest", "target");
    }

    /// A heading inside a part.
    pub fn setting(&mut self, title: &str) {
        title.clone_into(&mut self.heading);
        println!("  {title}");
    }

    /// A line that is there to be compared with.
    pub fn line(&self, what: &str, rounds: &Rounds, unit: Unit) {
        println!("{}", row(what, rounds, unit));
    }

    /// A line about which something was promised.
    pub fn target(&mut self, what: &str, rounds: &Rounds, unit: Unit, target: Target) {
        let met = target.is_met(rounds);
        self.targets += 1;
        if !met {
            self.missed.push(format!("{what} ({})", self.heading));
        }
        let verdict = if met { "yes" } else { "NO" };
        println!("{:<101}{:<16}{verdict}", row(what, rounds, unit), target.text());
    }

    pub fn print(&self) {
        let met = self.targets - self.missed.len();
        println!("\n{met} of {} targets met", self.targets);
        for missed in &self.missed {
            println!("  missed: {missed}");
        }
    }
}

fn row(what: &str, rounds: &Rounds, unit: Unit) -> String {
    let median = format!("{} {:<9}", unit.show(rounds.median()), unit.name());
    let spread = format!("{} … {}", unit.show(rounds.least()), unit.show(rounds.greatest()));
    format!("    {what:<48}{median:>20}  {spread:<27}")
}
