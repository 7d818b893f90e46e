//! RabbitMQ and its MQTT plug-in.

use crate::broker::{Broker, Keeps, Program};
use crate::matrix;

/// One that the sidecar comes to by TLS, and that uses nothing of the system's service. Its Erlang starts no `epmd`, which would stay behind: not for itself, nor a
/// minute later, when RabbitMQ misses it.
fn rabbitmq() -> Broker {
    let mut broker = Broker::new(Keeps::All);
    let server = broker.by_tls();
    let configuration = [
        format!("listeners.tcp.1 = {}", broker.port()),
        format!("mqtt.listeners.tcp.1 = {}", broker.address),
        format!("mqtt.listeners.ssl.1 = {}", broker.door.address),
        format!("ssl_options.certfile = {}", server.cert.display()),
        format!("ssl_options.keyfile = {}", server.key.display()),
        "mqtt.allow_anonymous = true".to_owned(),
        "log.console = true".to_owned(),
        "log.file = false".to_owned(),
    ];
    let configuration = broker.write("rabbitmq.conf", &configuration);
    let plugins = broker.write("plugins", &["[rabbitmq_mqtt].".to_owned()]);
    let distribution = broker.port();
    let port = distribution.port();
    let interface = distribution.ip().to_string().replace('.', ",");
    let erlang = format!(
        "-sname test@localhost -setcookie test -erl_epmd_port {port} \
         -kernel inet_dist_use_interface {{{interface}}}"
    );
    let environment = vec![
        ("HOME", broker.file("")),
        ("RABBITMQ_NODENAME", "test@localhost".to_owned()),
        ("RABBITMQ_MNESIA_BASE", broker.file("mnesia")),
        ("RABBITMQ_LOG_BASE", broker.file("")),
        ("RABBITMQ_CONF_ENV_FILE", "/dev/null".to_owned()),
        ("RABBITMQ_CONFIG_FILE", configuration),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", plugins),
        ("RABBITMQ_DIST_PORT", port.to_string()),
        ("ERL_FLAGS", "-start_epmd false".to_owned()),
        ("ERL_CRASH_DUMP_SECONDS", "0".to_owned()),
        ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", erlang),
        // Has the script become the broker, rather than wait for it.
        ("detached", "true".to_owned()),
    ];
    // Debian's own script would change the user, and leave the temporary folder.
    let path = "/usr/lib/rabbitmq/bin/rabbitmq-server".into();
    broker.run(Program { path, arguments: Vec::new(), environment })
}

#[test]
fn a_restart_never_costs_a_record_or_a_command() {
    matrix::nothing_is_ever_lost_over_a_restart_of(rabbitmq());
}
