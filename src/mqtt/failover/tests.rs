use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// The servers of a round that fails, up to the pause behind it.
fn round(failover: &mut Failover) -> (Vec<Place>, Duration) {
    let mut tried = Vec::new();
    loop {
        match failover.next(1.0) {
            Step::Dial(place) => tried.push(place),
            Step::Pause(pause) => return (tried, pause),
        }
    }
}

fn listed<const N: usize>(indices: [usize; N]) -> Vec<Place> {
    indices.map(Place::Listed).to_vec()
}

/// Connects to this one, of which all before it fail.
fn connect(failover: &mut Failover, wanted: usize) {
    for _ in 0..100 {
        if failover.next(0.0) == Step::Dial(Place::Listed(wanted)) {
            return failover.connected();
        }
    }
    panic!("server {wanted} is never tried");
}

#[test]
fn a_round_never_has_a_pause_in_it_and_never_ends_without_one() {
    let mut failover = Failover::new(3);
    let pauses = [250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000].map(Duration::from_millis);
    for pause in pauses {
        assert_eq!(round(&mut failover), (listed([0, 1, 2]), pause));
    }
}

#[test]
fn a_lost_server_is_never_tried_before_the_others() {
    let mut failover = Failover::new(3);
    connect(&mut failover, 1);
    failover.proved();
    failover.lost(60 * SECOND, 0.5);
    assert_eq!(failover.next(0.0), Step::Pause(SECOND / 2), "a moment for the fleet's sake");
    assert_eq!(round(&mut failover), (listed([2, 0, 1]), BACKOFF.0), "then in order");
    assert_eq!(round(&mut failover).0, listed([0, 1, 2]), "after a pause from the first one");
}

#[test]
fn a_broker_that_accepts_and_hangs_up_is_never_hammered() {
    let mut failover = Failover::new(2);
    let mut pauses = Vec::new();
    while pauses.len() < 9 {
        match failover.next(1.0) {
            Step::Pause(pause) => pauses.push(pause),
            Step::Dial(_) => {
                failover.connected();
                failover.lost(SECOND, 0.0);
            }
        }
    }
    assert_eq!((pauses[0], pauses[8]), BACKOFF);
    // One that was idle for a while and is lost then did nothing wrong.
    connect(&mut failover, 0);
    failover.lost(HEALTHY, 0.0);
    assert_eq!(failover.next(1.0), Step::Pause(Duration::ZERO));
    assert_eq!(round(&mut failover), (listed([1, 0]), BACKOFF.0));
}

#[test]
fn a_move_that_fails_never_costs_more_than_the_way_back() {
    let mut failover = Failover::new(3);
    connect(&mut failover, 2);
    failover.proved();
    assert_eq!(failover.better(), [0, 1]);
    failover.moved(0);
    assert_eq!(round(&mut failover).0, listed([0, 2, 1]));
}

#[test]
fn a_server_that_has_to_repeat_itself_is_never_left_nor_hammered() {
    let mut failover = Failover::new(2);
    connect(&mut failover, 1);
    let mut pauses = Vec::new();
    for _ in 0..3 {
        failover.proved();
        failover.again(SECOND, 1.0);
        let Step::Pause(pause) = failover.next(1.0) else { panic!("no pause") };
        pauses.push(pause.as_millis());
        assert_eq!(failover.next(1.0), Step::Dial(Place::Listed(1)));
        failover.connected();
    }
    assert_eq!(pauses, [250, 500, 1000]);
}

#[test]
fn a_first_server_that_does_not_hold_is_never_gone_back_to_as_often() {
    let mut failover = Failover::new(2);
    let every = 300 * SECOND;
    assert!(failover.better().is_empty(), "not connected");
    let mut waits = Vec::new();
    for _ in 0..7 {
        connect(&mut failover, 1);
        failover.proved();
        waits.push(failover.patience(every, 0.5).as_secs());
        failover.moved(0);
        connect(&mut failover, 0);
        assert!(failover.better().is_empty(), "this is the best");
        failover.proved();
        failover.lost(60 * SECOND, 0.0);
    }
    assert_eq!(waits, [300, 600, 1200, 2400, 2400, 2400, 2400]);
    assert_eq!(failover.patience(every, 0.0), 1800 * SECOND);
    assert_eq!(failover.patience(every, 1.0), 3000 * SECOND);
    connect(&mut failover, 0);
    failover.lost(TRUSTED, 0.0);
    assert_eq!(failover.patience(every, 0.5), every, "it has held");
    connect(&mut failover, 1);
    failover.looked_in_vain();
    assert_eq!(failover.patience(every, 0.5), 2 * every);
}

#[test]
fn a_redirection_is_never_followed_in_circles_nor_left_for_the_list() {
    let mut failover = Failover::new(2);
    assert_eq!(failover.next(0.0), Step::Dial(Place::Listed(0)));
    for _ in 0..MOST_REDIRECTIONS {
        assert!(failover.redirected(1.0));
        assert_eq!(failover.next(0.0), Step::Dial(Place::Elsewhere));
    }
    assert!(!failover.redirected(1.0));
    assert_eq!(round(&mut failover).0, listed([1]), "and on with the round");
    assert_eq!(failover.next(0.0), Step::Dial(Place::Listed(0)));
    failover.connected();
    assert!(failover.redirected(1.0));
    assert_eq!(failover.next(0.0), Step::Dial(Place::Elsewhere));
    failover.connected();
    failover.proved();
    assert!(failover.better().is_empty());
    failover.lost(SECOND, 0.0);
    assert_eq!(failover.next(0.0), Step::Pause(Duration::ZERO));
    assert_eq!(round(&mut failover).0, listed([0, 1]));
}

#[test]
fn brokers_that_send_us_to_each_other_are_never_hammered() {
    let mut failover = Failover::new(1);
    let (mut tries, mut waited) = (0, Duration::ZERO);
    while tries < 100 {
        match failover.next(1.0) {
            Step::Pause(pause) => waited += pause,
            Step::Dial(_) => {
                tries += 1;
                failover.connected();
                failover.proved();
                failover.lost(SECOND / 10, 1.0);
                failover.redirected(1.0);
            }
        }
    }
    assert!(waited >= 300 * SECOND, "{waited:?} for {tries} connections");
}

#[test]
fn a_flapping_link_never_has_a_broker_hammered() {
    let mut failover = Failover::new(1);
    // Ten minutes of a link that comes back every second.
    let hasty = (0..600).filter(|second| failover.hurry(second * 1000)).count();
    assert!((60..=63).contains(&hasty), "{hasty}");
    assert!(failover.hurry(3_600_000));
    assert!(!Failover { hasty: Haste { left: 0, since_ms: 5000 }, ..failover }.hurry(4000), "a clock that jumps back");
}

#[test]
fn followers_never_stay_where_the_leader_is_not() {
    let mut failover = Failover::new(3);
    assert!(failover.settle(2) && !failover.settle(2));
    assert!(!failover.settle(7), "there is none");
    assert_eq!(round(&mut failover).0, listed([0, 1, 2]), "a round that has begun is ended");
    assert_eq!(round(&mut failover).0, listed([2, 0, 1]));
    connect(&mut failover, 1);
    assert_eq!(failover.better(), [2]);
    failover.moved(2);
    assert_eq!(round(&mut failover).0, listed([2, 1, 0]));
}

/// Hundreds of gateways lose their only broker at one instant and find it again after `outage`: how many of them
/// come in the busiest tenth of a second.
fn busiest(outage: Duration, gateways: usize) -> usize {
    let mut random = fastrand::Rng::with_seed(7);
    let mut slots = std::collections::BTreeMap::<u128, usize>::new();
    for _ in 0..gateways {
        let mut failover = Failover::new(1);
        connect(&mut failover, 0);
        failover.proved();
        failover.lost(3600 * SECOND, random.f64());
        let mut now = Duration::ZERO;
        loop {
            match failover.next(random.f64()) {
                Step::Pause(pause) => now += pause,
                Step::Dial(_) if now >= outage => break,
                Step::Dial(_) => {}
            }
        }
        *slots.entry((now - outage).as_millis() / 100).or_default() += 1;
    }
    slots.into_values().max().unwrap_or(0)
}

#[test]
fn a_fleet_never_comes_back_in_lock_step() {
    for (outage, most) in [(0, 80), (1, 160), (10, 50), (60, 30), (600, 30)] {
        let busiest = busiest(outage * SECOND, 500);
        assert!(busiest <= most, "{busiest} of 500 in a tenth of a second, after {outage} s without a broker");
    }
}
