SUMMARY = "Edge sidecar for IoT gateways"
DESCRIPTION = "\
    pillion goes along with the main application of an IoT gateway, bound to its systemd unit: it bridges serial \
    devices, Modbus buses and GPIO lines to an MQTT broker, keeps every record in a spool that survives bad links, \
    kills and power cuts, and says at any time how it is doing. \
"
HOMEPAGE = "https://pillion.invalid"
SECTION = "net"
# Its own, and those of the crates that end up in the binary; tests/yocto.rs compares.
LICENSE = "(MIT | Apache-2.0) & Apache-2.0 & BSD-3-Clause & ISC & MIT & MPL-2.0"
LIC_FILES_CHKSUM = "\
    file://LICENSE-APACHE;md5=3b83ef96387f14655fc854ddc3c6bd57 \
    file://LICENSE-MIT;md5=059a7443c8a0a4b4fadf6e114760a444 \
"

# Where the source comes from: the checkout that this layer is in, or a repository, by these two; see yocto/README.md.
PILLION_SRC_URI ?= ""
PILLION_SRCREV ?= ""
SRC_URI = "${PILLION_SRC_URI}"
SRCREV = "${PILLION_SRCREV}"
EXTERNALSRC = "${@'' if d.getVar('PILLION_SRC_URI') else os.path.realpath(d.getVar('FILE_DIRNAME') + '/../../../..')}"
# nooelint: oelint.vars.mispell.unknown
EXTERNALSRC_SYMLINKS = ""

require pillion-crates.inc

inherit cargo externalsrc features_check systemd useradd

REQUIRED_DISTRO_FEATURES = "systemd"

PACKAGECONFIG ??= ""
# `pillion demo`: an embedded broker, to see the whole path with nothing else installed.
PACKAGECONFIG[demo] = "--features demo"

CARGO_BUILD_FLAGS:append = " ${PACKAGECONFIG_CONFARGS}"
# Packaging strips the binary, and keeps its symbols for ${PN}-dbg.
export CARGO_PROFILE_RELEASE_STRIP = "none"

# The applications that have a sidecar from the first boot on: NAME for NAME.service and /etc/pillion/NAME.toml.
PILLION_INSTANCES ?= ""

do_install:append() {
    install -d ${D}${systemd_system_unitdir}
    install -m 0644 ${S}/systemd/pillion*@.* ${D}${systemd_system_unitdir}
    install -D -m 0644 ${S}/systemd/pillion.sysusers ${D}${nonarch_libdir}/sysusers.d/pillion.conf
    install -D -m 0644 ${S}/systemd/pillion.tmpfiles ${D}${nonarch_libdir}/tmpfiles.d/pillion.conf
    install -D -m 0644 ${S}/systemd/60-pillion.rules ${D}${nonarch_base_libdir}/udev/rules.d/60-pillion.rules
    install -d -m 0750 -g pillion ${D}${sysconfdir}/pillion
    install -m 0640 -g pillion ${S}/systemd/gateway.toml ${D}${sysconfdir}/pillion/example.toml
    install -D -m 0644 ${S}/systemd/credentials.conf ${D}${docdir}/${BPN}/examples/credentials.conf
    # Not enabled but wanted: what disables the template below, on an upgrade, would disable its instances.
    for instance in ${PILLION_INSTANCES}; do
        install -d ${D}${systemd_system_unitdir}/$instance.service.wants
        ln -s ../pillion@.service ${D}${systemd_system_unitdir}/$instance.service.wants/pillion@$instance.service
    done
}

SYSTEMD_SERVICE:${PN} = "pillion@.service"
SYSTEMD_AUTO_ENABLE:${PN} = "disable"

# As systemd/pillion.sysusers says, but in the image already. dialout is there from the start.
USERADD_PACKAGES = "${PN}"
GROUPADD_PARAM:${PN} = "--system gpio; --system systemd-journal"
USERADD_PARAM:${PN} = "\
    --system --user-group --groups gpio,dialout,systemd-journal \
    --home-dir ${localstatedir}/lib/pillion --no-create-home --shell ${base_sbindir}/nologin \
    pillion \
"

FILES:${PN} += "\
    ${nonarch_base_libdir}/udev/rules.d \
    ${nonarch_libdir}/sysusers.d \
    ${nonarch_libdir}/tmpfiles.d \
    ${systemd_system_unitdir} \
"
CONFFILES:${PN} = "${sysconfdir}/pillion/example.toml"
# systemctl and journalctl.
RDEPENDS:${PN} = "systemd"
# Whom a broker's certificate is trusted by, unless the configuration says.
RRECOMMENDS:${PN} = "ca-certificates"
