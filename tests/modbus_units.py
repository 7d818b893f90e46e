"""Two Modbus RTU units by pymodbus, on the serial port that is named on the command line; says "ready" when they listen.

Unit 1 has 100, 101, … in its holding registers, unit 7 has 500, 501, … Other units don't exist. An end of input ends it.
"""

import asyncio
import sys

from pymodbus.datastore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext
from pymodbus.framer import FramerType
from pymodbus.server import ModbusSerialServer


def unit(base):
    # pymodbus counts from 1 where the protocol counts from 0.
    registers = ModbusSequentialDataBlock(1, list(range(base, base + 100)))
    bits = ModbusSequentialDataBlock(1, [True, False] * 50)
    return ModbusSlaveContext(di=bits, co=bits, hr=registers, ir=registers)


async def main():
    units = ModbusServerContext(slaves={1: unit(100), 7: unit(500)}, single=False)
    # A pseudo terminal takes no parity.
    server = ModbusSerialServer(units, framer=FramerType.RTU, port=sys.argv[1], baudrate=19200, parity="N")
    serving = asyncio.create_task(server.serve_forever())
    await asyncio.sleep(0)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.shutdown()
    serving.cancel()


asyncio.run(main())
