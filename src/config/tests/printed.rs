//! The effective configuration, as it is printed.

use super::{check_round_trip, parsed};

#[test]
fn a_framing_is_never_printed_without_one_of_its_keys() {
    let shown = |framing: &str| {
        let text = format!("[[serial]]\nname = \"a\"\npath = \"/dev/a\"\nframing = {framing}");
        let toml = parsed(&text).unwrap_or_else(|problems| panic!("{problems}")).config.to_toml();
        let line = toml.lines().find_map(|line| line.strip_prefix("framing = ")).unwrap().to_owned();
        check_round_trip(&text);
        line
    };
    assert_eq!(shown("{}"), r#"{ kind = "lines", max = 1024, delimiter = "\n" }"#);
    assert_eq!(shown(r#"{ kind = "cobs" }"#), r#"{ kind = "cobs", max = 1024 }"#);
    assert_eq!(
        shown(r#"{ kind = "length-prefixed", crc = "crc32" }"#),
        r#"{ kind = "length-prefixed", max = 1024, length_bytes = 2, endian = "big", includes_header = false, crc = "crc32" }"#
    );
    assert_eq!(shown(r#"{ kind = "idle-gap" }"#), r#"{ kind = "idle-gap", max = 1024, gap = "20ms" }"#);
    for whole in [
        r#"{ kind = "lines", max = 7, delimiter = "\r\u0000\t \"\\\u007F", crc = "crc16-ccitt" }"#,
        r#"{ kind = "slip", max = 4096, crc = "crc16-modbus" }"#,
        r#"{ kind = "length-prefixed", max = 251, length_bytes = 1, endian = "little", includes_header = true, idle = "1s" }"#,
        r#"{ kind = "fixed", size = 4096, idle = "10s", crc = "crc32" }"#,
        r#"{ kind = "idle-gap", max = 256, gap = "250us", crc = "crc16-modbus" }"#,
    ] {
        assert_eq!(shown(whole), whole);
    }
}

#[test]
fn the_effective_configuration_never_reads_differently() {
    check_round_trip("");
    check_round_trip(include_str!("../../../systemd/gateway.toml"));
    check_round_trip(
        "[[modbus]]\nname = \"bus\"\nusb = \"0403:6001\"\nrs485 = {}\nlow_latency = true\ngap = \"9ms\"\n\
         [[modbus.unit]]\nname = \"u\"\nunit = 7\ncommands = {}\n\
         [[modbus.unit.poll]]\nname = \"a\"\ntable = \"holding\"\naddress = 9\ntype = \"f32\"\nword_order = \"little\"\n\
         scale = -0.25\noffset = 1e3\ninterval = \"90ms\"\npublish = \"change\"\ndeadband = 0.5\nwrite = true\nverify = true\n\
         [[modbus.unit.poll]]\nname = \"s\"\ntable = \"input\"\naddress = 0\ntype = \"string\"\nwords = 3\n\
         [[modbus.unit.poll]]\nname = \"c\"\ntable = \"coil\"\naddress = 65535",
    );
    check_round_trip(
        "[[serial]]\nname = \"a\"\nusb = \"0403:6001:A 1\"\ndtr = false\nrts = true\nlow_latency = true\n\
         rs485 = { rts_on_send = false, delay_before_send = \"2ms\", rx_during_tx = true }\n\
         commands = { allow = [\"a*\"], rate = 3, ttl = \"5s\", reply = \"1s\" }",
    );
    check_round_trip(
        "[mqtt]\nservers = [\"mqtts://b\", \"mqtts://[::1]:1\"]\nca_file = \"ca\"\ncert_file = \"/c\"\nkey_file = \"k\"\n\
         server_name = \"b.example\"\nalpn = [\"mqtt\", \"x\"]",
    );
    check_round_trip(
        "instance = \"a@b.c\"\n[mqtt]\nservers = [\"mqtt://[fe80::1]:1\", \"mqtt://b\"]\nusername = 'q\"\\ü'\n\
         password_file = \"../pw\"\nversion = \"3.1.1\"\n[app]\nunit = 'a\\x2d.service'\nheartbeat_timeout = \"90s\"\nlogs = false\n\
         log_level = \"debug\"\nlog_rate = 0\nrecorder = \"1KiB\"\n[spool]\nsync = \"always\"",
    );
}
