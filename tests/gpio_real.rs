//! GPIO devices against the real character device. Skipped, with a reason, where there is none.
//!
//! ```text
//! PILLION_GPIO_CHIP     [/dev/gpiochip0]
//! PILLION_GPIO_INPUT    [3]  a line that gets pulses from outside
//! PILLION_GPIO_OUTPUT   [5]  a line that nothing else drives, and that reads back what it drives
//! ```

// clippy.toml exempts test functions; this exempts what they share.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use pillion::config::{Bias, GpioLine};
use pillion::device::gpio::cdev::Cdev;
use pillion::device::gpio::chip::{Chips, Held, Request, Role, Trouble};
use std::path::Path;
use std::time::Duration;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(20);

fn variable(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

/// The chip, or the reason why there is nothing to test.
fn chip() -> Option<String> {
    let chip = variable("PILLION_GPIO_CHIP", "/dev/gpiochip0");
    let path = Path::new("/dev").join(&chip);
    if !path.exists() {
        println!("SKIPPED: {} does not exist; set PILLION_GPIO_CHIP to a chip's path", path.display());
        return None;
    }
    Some(chip)
}

fn line(name: &str, default: &str) -> GpioLine {
    let line = variable(name, default);
    line.parse().map_or(GpioLine::Name(line), GpioLine::Offset)
}

fn request<'a>(chip: &'a str, line: &'a GpioLine, role: Role) -> Request<'a> {
    Request { chip, line, bias: Bias::AsIs, active_low: false, role }
}

const BOTH: Role = Role::Read { rising: true, falling: true, debounce: None };

#[tokio::test]
async fn no_real_edge_is_ever_lost_or_out_of_time() {
    let Some(chip) = chip() else { return };
    let line = line("PILLION_GPIO_INPUT", "3");
    let mut held = Cdev.take(&request(&chip, &line, BOTH)).unwrap();
    let start = Cdev.monotonic_ns();
    let mut edges = Vec::new();
    while edges.len() < 4 {
        timeout(DEADLINE, held.ready()).await.expect("pulses from outside").unwrap();
        held.edges(&mut edges, 64).unwrap();
    }
    println!("{edges:?}");
    for (number, edge) in (1..).zip(&edges) {
        assert_eq!(edge.line_seqno, number);
        assert!((start..=Cdev.monotonic_ns()).contains(&edge.at_ns), "{start} {edge:?}");
    }
    for pair in edges.windows(2) {
        assert!(pair[0].rising != pair[1].rising && pair[0].at_ns < pair[1].at_ns, "{pair:?}");
    }
}

#[tokio::test]
async fn a_real_output_never_has_another_value_than_it_was_given() {
    let Some(chip) = chip() else { return };
    let line = line("PILLION_GPIO_OUTPUT", "5");
    let keep = request(&chip, &line, Role::Drive(None));
    for value in [true, false, true] {
        let held = Cdev.take(&request(&chip, &line, Role::Drive(Some(value)))).unwrap();
        assert_eq!(held.value(), Ok(value));
        let busy = Cdev.take(&keep).unwrap_err();
        assert!(matches!(&busy, Trouble::Busy { by, .. } if by == "\"pillion\""), "{busy}");
        drop(held);
        let adopted = Cdev.take(&keep).unwrap();
        assert_eq!(adopted.value(), Ok(value), "kept over a change of hands");
        adopted.drive(!value).unwrap();
        assert_eq!(adopted.value(), Ok(!value));
    }
    let low = Request { active_low: true, ..request(&chip, &line, Role::Drive(Some(true))) };
    drop(Cdev.take(&low).unwrap());
    assert_eq!(Cdev.take(&keep).unwrap().value(), Ok(false), "true is a low level there");
    let none = GpioLine::Offset(65_535);
    assert!(matches!(Cdev.take(&request(&chip, &none, BOTH)), Err(Trouble::NoLine { .. })));
}
