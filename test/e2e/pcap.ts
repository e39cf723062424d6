// UDP payloads out of a capture that tcpdump wrote: classic pcap, Ethernet, IPv4 without VLAN.

const MAGIC = 0xa1b2c3d4;
const ETHERNET = 14;
const UDP = 8;

export interface Payload {
  /** Destination. */
  readonly port: number;
  readonly bytes: Uint8Array;
}

/** In the order in which they were captured. Throws for a file of another format or byte order. */
export function payloads(file: Buffer): Payload[] {
  if (file.readUInt32LE(0) !== MAGIC) throw new Error('no little-endian pcap of microseconds');
  const found: Payload[] = [];
  for (let at = 24; at + 16 <= file.length; ) {
    const length = file.readUInt32LE(at + 8);
    const frame = file.subarray(at + 16, at + 16 + length);
    at += 16 + length;
    if (frame.length < ETHERNET + 20 + UDP || frame.readUInt16BE(12) !== 0x0800 || frame[ETHERNET + 9] !== 17) continue;
    const udp = frame.subarray(ETHERNET + (frame[ETHERNET]! & 15) * 4);
    found.push({ port: udp.readUInt16BE(2), bytes: udp.subarray(UDP, udp.readUInt16BE(4)) });
  }
  return found;
}
