// The verdict table: from what was heard and fetched to what is wrong and what to look at.
import { describe, expect, it } from 'vitest';
import type { ProbeAnswer } from '../../src/probe/answers.ts';
import type { Fetched } from '../../src/probe/fetch.ts';
import { judge, type Seen } from '../../src/probe/verdict.ts';

const OURS: ProbeAnswer = { kind: 'offer', from: '10.77.0.1', server: '10.77.0.1', afterMs: 4, times: 1, address: '10.77.0.11', siaddr: '10.77.0.1', file: 'undionly.kpxe', target: { via: 'tftp', server: '10.77.0.1', file: 'undionly.kpxe' } };
const OTHER: ProbeAnswer = { kind: 'offer', from: '10.77.0.9', server: '10.77.0.9', afterMs: 900, times: 1, address: '10.77.0.200', target: { via: 'none', why: 'it names no boot file' } };
const PROXY: ProbeAnswer = { kind: 'proxy', from: '10.77.0.8', server: '10.77.0.8', afterMs: 9, times: 1, vendorClass: 'PXEClient', target: { via: 'tftp', server: '10.77.0.8', file: 'x.0' } };
const LOADER: Fetched = { from: 'tftp://10.77.0.1/undionly.kpxe', ok: true, bytes: 70_000, digest: 'sha256:00', ms: 20, kind: 'program' };
const REFUSED: Fetched = { from: 'tftp://10.77.0.1/undionly.kpxe', ok: false, refused: true, why: 'the server says: no profile names this machine' };
const SCRIPT: Fetched = { from: 'http://10.77.0.1/script/x', ok: true, bytes: 300, kind: 'script', script: ['#!ipxe'], files: [{ command: 'kernel', url: 'http://10.77.0.1/k', status: 200, ok: true }] };
const seen = (more: Partial<Seen>): Seen => ({ role: 'bios', mac: '52:54:00:00:00:01', answers: [OURS], sent: 1, timeoutS: 5, ...more });
const say = (more: Partial<Seen>) => judge(seen(more)).map(({ level, what }) => `${level}: ${what}`);

describe('who answers', () => {
  it.each<[string, Partial<Seen>, readonly RegExp[]]>([
    ['nobody', { answers: [] }, [/^problem: no DHCP server answered within 5 s$/]],
    ['one server that says what to boot', {}, []],
    ['two servers', { answers: [OURS, OTHER] }, [/^warning: 2 DHCP servers answer, one of them a stranger: 10\.77\.0\.1, 10\.77\.0\.9$/, /^note: 10\.77\.0\.9: it names no boot file$/]],
    ['two servers of which one was expected', { answers: [OURS, OTHER], expect: '10.77.0.1' }, [/^warning: a stranger answers: 10\.77\.0\.9$/, /^note/]],
    ['a stranger alone', { answers: [OTHER], expect: '10.77.0.1' }, [/^problem: 10\.77\.0\.1, which should answer, did not$/, /^problem: 10\.77\.0\.9: it names no boot file$/, /^warning: a stranger answers: 10\.77\.0\.9$/]],
    ['a server and a proxy', { answers: [OURS, PROXY] }, [/^warning: a proxyDHCP server answers too: 10\.77\.0\.8$/]],
    ['a proxy that was not expected', { answers: [OURS, PROXY], expect: '10.77.0.1' }, [/^warning: a stranger answers: 10\.77\.0\.8$/]],
    ['a proxy alone', { answers: [PROXY] }, [/^problem: only a proxyDHCP server answers \(10\.77\.0\.8\): nobody gives the machine an address$/, /^warning: a proxyDHCP/]],
    ['one server twice', { answers: [{ ...OURS, times: 2 }] }, [/^warning: 10\.77\.0\.1 answered 2 times to one DISCOVER$/]],
    ['one server twice, asked twice', { answers: [{ ...OURS, times: 2 }], sent: 2 }, []],
    ['one server by two relays', { answers: [{ ...OURS, from: '10.77.0.2', relay: '10.77.0.2' }, { ...OURS, from: '10.77.0.3', relay: '10.77.0.3' }] }, [/^warning: .* answered 2 times to one DISCOVER from 10\.77\.0\.2, 10\.77\.0\.3$/, /^note: 10\.77\.0\.1 answers through the relay 10\.77\.0\.2, 10\.77\.0\.3$/]],
    ['two servers with one address', { answers: [OURS, { ...OTHER, address: '10.77.0.11' }] }, [/^warning: 2 DHCP/, /^warning: 10\.77\.0\.1 and 10\.77\.0\.9 offer the same address 10\.77\.0\.11$/, /^note/]],
    ['a server that sends no server id, as by its address', { answers: [{ ...OURS, from: '10.77.0.7', server: undefined } as unknown as ProbeAnswer, OURS] }, [/^warning: 2 DHCP servers answer.*10\.77\.0\.7, 10\.77\.0\.1/, /same address/]],
    ['a server that names nothing to boot', { answers: [OTHER] }, [/^problem: 10\.77\.0\.9: it names no boot file$/]],
  ])('%s', (_name, more, expected) => {
    const said = say(more);
    expect(said).toHaveLength(expected.length);
    expected.forEach((pattern, index) => expect(said[index]).toMatch(pattern));
  });

  it('silence is explained by what to check, the unknown MAC first', () => {
    const [finding] = judge(seen({ answers: [] }));
    expect(finding!.hint).toMatch(/^unknown MAC: rackseed answers only machines that a profile names \(is 52:54:00:00:00:01 in boot-profiles.*firewall.*relay.*daemon/);
  });
});

describe('what was fetched', () => {
  it.each<[string, Partial<Seen>, readonly RegExp[]]>([
    ['the loader', { fetched: [LOADER] }, []],
    ['nothing, and nothing was to be', {}, []],
    ['a refusal', { fetched: [REFUSED] }, [/^problem: tftp.* was refused: the server says: no profile names this machine$/]],
    ['a refusal of one server, the loader of another', { fetched: [REFUSED, LOADER] }, [/^warning: tftp.* was refused/]],
    ['an empty file', { fetched: [{ ...LOADER, bytes: 0 }] }, [/^problem: .* is empty$/]],
    ['a UEFI loader for a BIOS machine', { fetched: [{ ...LOADER, kind: 'efi-amd64' }] }, [/^problem: .* is a UEFI program for amd64, which a bios machine .*wrong architecture or firmware$/]],
    ['an arm64 loader for an amd64 machine', { role: 'uefi', fetched: [{ ...LOADER, kind: 'efi-arm64' }] }, [/^problem: .* is a UEFI program for arm64/]],
    ['a BIOS loader for a UEFI machine', { role: 'uefi', fetched: [LOADER] }, [/^problem: .* is no UEFI program and no script/]],
    ['a script for a ROM', { fetched: [SCRIPT] }, [/^problem: .* is an iPXE script, which a bios machine/]],
    ['a script for an iPXE', { role: 'ipxe', fetched: [SCRIPT] }, []],
    ['a script that names no kernel', { role: 'ipxe', fetched: [{ ...SCRIPT, files: [] }] }, [/^warning: .* names no kernel or initrd/]],
    ['a script whose kernel is gone', { role: 'ipxe', fetched: [{ ...SCRIPT, files: [{ command: 'kernel', url: 'http://10.77.0.1/k', status: 404, ok: false }] }] }, [/^problem: .* names a kernel that is not there: http:\/\/10\.77\.0\.1\/k HTTP 404$/]],
  ])('%s', (_name, more, expected) => {
    const said = say(more);
    expect(said).toHaveLength(expected.length);
    expected.forEach((pattern, index) => expect(said[index]).toMatch(pattern));
  });

  it('a refusal without a lease is answered with --lease, one with a lease is not', () => {
    expect(judge(seen({ fetched: [REFUSED] }))[0]!.hint).toContain('--lease');
    expect(judge(seen({ fetched: [REFUSED], lease: { state: 'ack', address: '10.77.0.11', server: '10.77.0.1', released: true } }))[0]!.hint).toBeUndefined();
  });
});

describe('the lease', () => {
  const lease = { address: '10.77.0.11', server: '10.77.0.1', released: true } as const;
  it.each<[string, Partial<Seen>, readonly RegExp[]]>([
    ['taken and given back', { lease: { ...lease, state: 'ack' } }, []],
    ['not answered', { lease: { ...lease, state: 'none' } }, [/^problem: .* did not answer the REQUEST$/]],
    ['refused', { lease: { ...lease, state: 'nak', why: 'taken' } }, [/^problem: .* then refused it: taken$/]],
    ['of an address in use', { lease: { ...lease, state: 'ack', released: false, why: '10.77.0.11 is in use' } }, [/^warning: fetched from this machine's own address: 10\.77\.0\.11 is in use$/, /^note: the lease of 10\.77\.0\.11 stays/]],
  ])('%s', (_name, more, expected) => {
    const said = say(more);
    expect(said).toHaveLength(expected.length);
    expected.forEach((pattern, index) => expect(said[index]).toMatch(pattern));
  });
});
