// The probe's packets: read back by our codec and by the npm package dhcp, and taken by our server's rules for the machine they pretend to be.
import { createRequire } from 'node:module';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { identify } from '../../src/dhcp/client.ts';
import { messageOf, OPT, subOptionsOf, textOf, uint16sOf, userClassesOf, uuidOf } from '../../src/dhcp/options.ts';
import { decode, encode, macOf, type Packet } from '../../src/dhcp/packet.ts';
import { discoverOf, releaseOf, requestOf, uuidFor, type Role } from '../../src/probe/firmware.ts';
import { stateOf } from '../../src/dhcp/lease.ts';

const MAC = '52:54:00:12:34:56';
const who = (role: Role) => ({ role, mac: MAC, uuid: uuidFor(MAC), xid: 0xcafe0001 });
const wire = (packet: Packet): Uint8Array => {
  const bytes = encode(packet);
  if (!(bytes instanceof Uint8Array)) throw new Error(bytes.why);
  return bytes;
};

/** Its codec alone: `lib/protocol.js` opens no socket. */
const theirs = createRequire(import.meta.url)('dhcp/lib/protocol.js') as { parse(bytes: Buffer): { op: number; xid: number; flags: number; chaddr: string; options: Record<number, unknown> } };

afterEach(() => {
  vi.restoreAllMocks();
});

describe('what each firmware asks', () => {
  it.each([
    ['bios', { asker: 'rom', arch: 'amd64', firmware: 'bios' }, 'PXEClient:Arch:00000:UNDI:002001', [0]],
    ['uefi', { asker: 'rom', arch: 'amd64', firmware: 'uefi' }, 'PXEClient:Arch:00007:UNDI:003001', [7]],
    ['ipxe', { asker: 'ipxe', arch: 'amd64', firmware: 'bios', features: expect.arrayContaining(['http', 'bzimage']) as string[] }, 'PXEClient:Arch:00000:UNDI:002001', [0]],
    ['uefi-http', { asker: 'rom', arch: 'amd64', firmware: 'uefi-http' }, 'HTTPClient:Arch:00016:UNDI:003001', [16]],
  ] as const)('a %s machine is recognised as what it pretends to be', (role, request, vendorClass, arch) => {
    const packet = decode(wire(discoverOf(who(role))));
    expect(identify(packet)).toMatchObject({ ...request, mac: MAC, message: 'discover', uuid: uuidFor(MAC) });
    expect(textOf(packet.options, OPT.vendorClass)).toBe(vendorClass);
    expect(uint16sOf(packet.options, OPT.clientArch)).toEqual(arch);
    expect(packet.options.get(OPT.clientNdi)?.[0]).toBe(1);
    expect(uuidOf(packet.options)).toBe('7261636b-7365-8564-8000-525400123456');
  });

  it('only an iPXE sends a user class and option 175, the class raw as iPXE does', () => {
    const ipxe = discoverOf(who('ipxe')).options;
    expect(Buffer.from(ipxe.get(OPT.userClass)!).toString()).toBe('iPXE');
    expect(userClassesOf(ipxe)).toEqual(['iPXE']);
    expect(subOptionsOf(ipxe, OPT.ipxe).get(19)).toEqual(Uint8Array.of(1));
    for (const role of ['bios', 'uefi', 'uefi-http'] as const) expect([OPT.userClass, OPT.ipxe].filter((tag) => discoverOf(who(role)).options.has(tag))).toEqual([]);
  });

  it('the broadcast flag is set, no relay is claimed, and no address', () => {
    expect(decode(wire(discoverOf(who('bios'))))).toMatchObject({ op: 1, flags: 0x8000, giaddr: '0.0.0.0', ciaddr: '0.0.0.0', xid: 0xcafe0001 });
  });

  it('a REQUEST is in the state SELECTING and names address and server; a RELEASE names what it gives back', () => {
    const request = decode(wire(requestOf(who('bios'), '10.77.0.11', '10.77.0.1')));
    expect(stateOf(request)).toEqual({ state: 'selecting', ip: '10.77.0.11', server: '10.77.0.1' });
    const release = decode(wire(releaseOf(who('bios'), '10.77.0.11', '10.77.0.1')));
    expect({ type: messageOf(release.options), ciaddr: release.ciaddr, mac: macOf(release), flags: release.flags }).toEqual({ type: 'release', ciaddr: '10.77.0.11', mac: MAC, flags: 0 });
  });

  it.each(['bios', 'uefi', 'ipxe', 'uefi-http'] as const)('the package dhcp reads the %s DISCOVER alike, but for the PXE options that it does not know', (role) => {
    const unknown: string[] = [];
    vi.spyOn(console, 'error').mockImplementation((line: string) => void unknown.push(line));
    const ours = discoverOf(who(role));
    const packet = theirs.parse(Buffer.from(wire(ours)));
    expect({ ...packet, options: packet.options }).toMatchObject({ op: 1, xid: 0xcafe0001, flags: 0x8000, chaddr: '52-54-00-12-34-56', options: { 53: 1, 55: [...ours.options.get(OPT.parameterList)!], 57: 1472, 60: textOf(ours.options, OPT.vendorClass) } });
    expect(unknown).toEqual((role === 'ipxe' ? [93, 94, 77, 175, 97] : [93, 94, 97]).map((tag) => `Option ${tag} not known`));
  });
});
