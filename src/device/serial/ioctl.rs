//! Two requests to a serial port's driver for which no crate of ours has a safe call: RS-485 mode and low latency.
//!
//! The only unsafe code of pillion. Each block names the kernel's own type for its request, which is why it is sound; numbers and
//! layouts are from the kernel's `include/uapi/asm-generic/ioctls.h`, `linux/serial.h` and `linux/tty_flags.h`, valid on every architecture
//! that pillion is built for (x86, Arm, RISC-V).

#![allow(unsafe_code)]

use crate::config::Rs485;
use rustix::io::Errno;
use rustix::ioctl::{Updater, ioctl};
use std::ffi::{c_char, c_int, c_uint, c_ulong, c_ushort};
use std::os::fd::{AsRawFd, BorrowedFd};

const TIOCGSERIAL: u32 = 0x541E;
const TIOCSSERIAL: u32 = 0x541F;
const TIOCSRS485: u32 = 0x542F;

const ENABLED: u32 = 1 << 0;
const RTS_ON_SEND: u32 = 1 << 1;
const RTS_AFTER_SEND: u32 = 1 << 2;
const RX_DURING_TX: u32 = 1 << 4;
const ASYNC_LOW_LATENCY: c_int = 1 << 13;

/// `struct serial_rs485`: 32 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct SerialRs485 {
    flags: u32,
    delay_rts_before_send: u32,
    delay_rts_after_send: u32,
    padding: [u32; 5],
}

/// `struct serial_struct`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct SerialStruct {
    kind: c_int,
    line: c_int,
    port: c_uint,
    irq: c_int,
    flags: c_int,
    xmit_fifo_size: c_int,
    custom_divisor: c_int,
    baud_base: c_int,
    close_delay: c_ushort,
    io_type: c_char,
    reserved_char: c_char,
    hub6: c_int,
    closing_wait: c_ushort,
    closing_wait2: c_ushort,
    iomem_base: usize,
    iomem_reg_shift: c_ushort,
    port_high: c_uint,
    iomap_base: c_ulong,
}

/// Switches RS-485 mode on. TIOCGRS485 is never asked: some drivers answer it with an oops.
///
/// # Errors
/// ENOTTY: the driver knows no RS-485. EINVAL: it drives the RTS line otherwise than configured (the kernel shows what it made of
/// the request).
pub fn set_rs485(port: &impl AsRawFd, config: &Rs485) -> Result<(), Errno> {
    let port = borrow(port);
    let rts = if config.rts_on_send { RTS_ON_SEND } else { RTS_AFTER_SEND };
    let flags = ENABLED | rts | if config.rx_during_tx { RX_DURING_TX } else { 0 };
    let millis = |delay: std::time::Duration| u32::try_from(delay.as_millis()).unwrap_or(u32::MAX);
    let mut mode = SerialRs485 {
        flags,
        delay_rts_before_send: millis(config.delay_before_send),
        delay_rts_after_send: millis(config.delay_after_send),
        padding: [0; 5],
    };
    // SAFETY: TIOCSRS485 reads a `struct serial_rs485` and writes one back (Documentation/driver-api/serial/serial-rs485.rst).
    unsafe { ioctl(port, Updater::<TIOCSRS485, SerialRs485>::new(&mut mode))? };
    let kept = ENABLED | RTS_ON_SEND | RTS_AFTER_SEND;
    if mode.flags & kept == flags & kept { Ok(()) } else { Err(Errno::INVAL) }
}

/// Asks the driver to hand over each byte at once instead of collecting them (16 ms with FTDI adapters).
///
/// # Errors
/// ENOTTY: the driver has no such thing. EPERM: only root may change it there.
pub fn set_low_latency(port: &impl AsRawFd) -> Result<(), Errno> {
    let port = borrow(port);
    let mut settings = SerialStruct {
        kind: 0,
        line: 0,
        port: 0,
        irq: 0,
        flags: 0,
        xmit_fifo_size: 0,
        custom_divisor: 0,
        baud_base: 0,
        close_delay: 0,
        io_type: 0,
        reserved_char: 0,
        hub6: 0,
        closing_wait: 0,
        closing_wait2: 0,
        iomem_base: 0,
        iomem_reg_shift: 0,
        port_high: 0,
        iomap_base: 0,
    };
    // SAFETY: TIOCGSERIAL writes a `struct serial_struct` (tty_ioctl(4)); ours is a valid one to be overwritten.
    unsafe { ioctl(port, Updater::<TIOCGSERIAL, SerialStruct>::new(&mut settings))? };
    settings.flags |= ASYNC_LOW_LATENCY;
    // SAFETY: TIOCSSERIAL reads a `struct serial_struct` and follows no pointer in it: the kernel made this one.
    unsafe { ioctl(port, Updater::<TIOCSSERIAL, SerialStruct>::new(&mut settings)) }
}

/// The port's descriptor, which its crate hands out as a number only.
fn borrow(port: &impl AsRawFd) -> BorrowedFd<'_> {
    // SAFETY: whoever shows its descriptor keeps it open, and we let go of it before `port` can be dropped.
    unsafe { BorrowedFd::borrow_raw(port.as_raw_fd()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layouts_never_differ_from_the_kernels() {
        assert_eq!(size_of::<SerialRs485>(), 32);
        // On 64 bits: `char *` at 48, `unsigned long` at 64.
        #[cfg(target_pointer_width = "64")]
        assert_eq!(
            (
                size_of::<SerialStruct>(),
                std::mem::offset_of!(SerialStruct, iomem_base),
                std::mem::offset_of!(SerialStruct, iomap_base)
            ),
            (72, 48, 64)
        );
    }
}
