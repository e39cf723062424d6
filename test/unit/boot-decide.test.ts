// The policy, as a table: who asks in which situation, and what is decided.
import { describe, expect, it } from 'vitest';
import { decide, STRANGER_RETRY_S, type BootDecision, type View } from '../../src/boot/decide.ts';
import { FAILURES_BEFORE_HOLD, HOLD_S } from '../../src/boot/hold.ts';
import type { BootRequest } from '../../src/boot/request.ts';
import { bootSet, bootSetDigest, bootWith, generationOf, nodeNamed } from './boot-world.ts';

const n1 = nodeNamed('n1');
const diskNode = nodeNamed('d1', { profile: 'disk', exit: 'sanboot' });
const armNode = nodeNamed('a1', { profile: 'arm' });
const armSet = { ...bootSet, image: { ...bootSet.image, name: 'arm', arch: 'arm64' as const } };
const base = generationOf(n1, diskNode);
const generation = { ...base, profiles: { ...base.profiles, arm: { name: 'arm', bootSet: 'sha256:arm' } }, bootSets: { ...base.bootSets, 'sha256:arm': armSet } };
const rom: BootRequest = { via: 'dhcp', asker: 'rom', arch: 'amd64', firmware: 'bios', message: 'discover' };
const ipxe: BootRequest = { via: 'dhcp', asker: 'ipxe', arch: 'amd64', firmware: 'bios', features: ['http', 'bzimage'], message: 'discover' };
const leaves = nodeNamed('n1', { exit: 'sanboot' });
const known: View = { node: n1, failedInRow: 0 };
const failing: View = { node: n1, failedInRow: FAILURES_BEFORE_HOLD, lastFailure: { stage: 'root', why: 'root: no squashfs', bootSet: bootSetDigest }, openBoot: bootWith(['discover']) };

const rows: readonly [sentence: string, view: View, request: BootRequest, decided: Partial<BootDecision>][] = [
  ['an unknown machine gets silence', { failedInRow: 0 }, rom, { kind: 'silent' }],
  ['where strangers are served, its ROM gets a loader', { failedInRow: 0 }, { ...rom, serve: 'discovered' }, { kind: 'loader', file: 'undionly.kpxe', via: 'tftp' }],
  ['its iPXE gets as far as a screen that says what to do', { failedInRow: 0 }, { ...ipxe, serve: 'discovered', mac: '52:54:00:00:00:09' }, { kind: 'hold', why: 'no profile names this machine: add 52:54:00:00:00:09 under nodes in boot-profiles/', retryAfterS: STRANGER_RETRY_S }],
  ['its script is that screen', { failedInRow: 0 }, { via: 'http', wants: 'script', serve: 'any' }, { kind: 'hold', why: 'no profile names this machine' }],
  ['a running stranger gets silence where machines that boot are served', { failedInRow: 0 }, { via: 'dhcp', asker: 'os', serve: 'discovered' }, { kind: 'silent' }],
  ['and an address where every client is', { failedInRow: 0 }, { via: 'dhcp', asker: 'os', serve: 'any' }, { kind: 'local', exit: 'exit' }],
  ['a stranger\'s initrd gets no more than that', { failedInRow: 0 }, { via: 'dhcp', asker: 'initrd', serve: 'any' }, { kind: 'local' }],
  ['a BIOS ROM gets undionly first', known, rom, { kind: 'loader', file: 'undionly.kpxe', via: 'tftp' }],
  ['a UEFI ROM gets snponly first', known, { ...rom, firmware: 'uefi' }, { kind: 'loader', file: 'snponly.efi' }],
  ['a ROM that no loader exists for is held with the reason', known, { ...rom, firmware: 'uefi', arch: 'riscv64' }, { kind: 'hold', why: 'image debian-k0s is for amd64, this machine is riscv64' }],
  ['a BIOS machine is not promised an image for another architecture', { node: armNode, failedInRow: 0 }, rom, { kind: 'hold', why: 'image arm is for arm64, this machine is amd64' }],
  ['a boot goes on with its boot set when its node has left the YAML', { node: nodeNamed('gone', { profile: 'gone' }), failedInRow: 0, openBoot: bootWith(['script'], { bootSet: bootSetDigest }) }, { via: 'http' }, { kind: 'boot', bootSet: bootSetDigest }],
  ['without one it is unknown', { node: nodeNamed('gone', { profile: 'gone' }), failedInRow: 0 }, { via: 'http' }, { kind: 'silent' }],
  ['HTTP Boot firmware gets snponly by HTTP', known, { ...rom, firmware: 'uefi-http' }, { kind: 'loader', file: 'snponly.efi', via: 'http' }],
  ['HTTP Boot firmware whose processor is not known is held', known, { via: 'dhcp', asker: 'rom', firmware: 'uefi-http', message: 'discover' }, { kind: 'hold', why: 'no loader for unknown uefi-http yet' }],
  ['an iPXE that can fetch and start a kernel gets the script at once', known, ipxe, { kind: 'boot', bootSet: bootSetDigest }],
  ['an iPXE without HTTP gets a loader once', known, { ...ipxe, features: ['bzimage'] }, { kind: 'loader', file: 'undionly.kpxe' }],
  ['an iPXE without HTTP that had its loader is held, not looped', { ...known, openBoot: bootWith(['discover', 'offer', 'lease', 'loader']) }, { ...ipxe, features: ['bzimage'] }, { kind: 'hold', why: 'this iPXE cannot fetch by HTTP or start a kernel (it lists bzimage)' }],
  ['our initrd stage gets its address and where to ask', known, { via: 'dhcp', asker: 'initrd' }, { kind: 'boot', bootSet: bootSetDigest }],
  ['a running system gets an address only', known, { via: 'dhcp', asker: 'os' }, { kind: 'local' }],
  ['a node whose profile boots from disk leaves by its exit method', { node: diskNode, failedInRow: 0 }, ipxe, { kind: 'local', exit: 'sanboot' }],
  ['a node that failed too often in a row is held, with what failed last and what to do', failing, ipxe, { kind: 'hold', why: '5 boots failed in a row, the last at root: no squashfs', hint: 'mend it, then: rackseed node release n1', retryAfterS: HOLD_S }],
  ['the stage is named where the reason does not', { ...failing, lastFailure: { stage: 'kernel', why: 'the machine started over', bootSet: bootSetDigest } }, ipxe, { kind: 'hold', why: '5 boots failed in a row, the last at kernel: the machine started over' }],
  ['of a failed step once', { ...failing, lastFailure: { stage: 'step:30-k0s', why: 'step 30-k0s: no disk', bootSet: bootSetDigest } }, ipxe, { kind: 'hold', why: '5 boots failed in a row, the last at step 30-k0s: no disk' }],
  ['failures that were counted before reasons were kept hold, too', { node: n1, failedInRow: 7 }, ipxe, { kind: 'hold', why: '7 boots failed in a row' }],
  ['its ROM gets a loader, so that a screen can say why', failing, rom, { kind: 'loader' }],
  ['another boot set is another chance', { ...failing, lastFailure: { bootSet: 'sha256:before' } }, ipxe, { kind: 'boot', bootSet: bootSetDigest }],
  ['a boot that has its boot set goes on, however many failed before', { ...failing, openBoot: bootWith(['script'], { bootSet: bootSetDigest }) }, { via: 'http', wants: 'script' }, { kind: 'boot' }],
  ['nobody is held where the operator wants none held', { ...failing, failedInRow: 99, holdAfter: 0 }, ipxe, { kind: 'boot' }],
  ['or later, where that is said', { ...failing, holdAfter: FAILURES_BEFORE_HOLD + 1 }, ipxe, { kind: 'boot' }],
  ['a running system of a node that is held gets its address', failing, { via: 'dhcp', asker: 'os' }, { kind: 'local', why: 'a running system needs an address only' }],
  ['a node whose next is local boots from its disk', { ...known, node: leaves, next: 'local' }, ipxe, { kind: 'local', why: 'n1 boots from its disk: next is local', exit: 'sanboot' }],
  ['also its ROM, which gets no loader', { ...known, next: 'local' }, rom, { kind: 'local' }],
  ['also when it asks for a script and no boot is open', { ...known, next: 'local' }, { via: 'http', asker: 'ipxe', wants: 'script' }, { kind: 'local' }],
  ['also when it failed too often', { ...failing, next: 'local' }, ipxe, { kind: 'local' }],
  ['as its YAML says', { ...known, node: { ...n1, next: 'local' } }, rom, { kind: 'local' }],
  ['an operator says otherwise', { ...known, node: { ...n1, next: 'local' }, next: 'netboot' }, ipxe, { kind: 'boot' }],
  ['boot-once boots from us until it is used up', { ...known, next: 'boot-once' }, ipxe, { kind: 'boot', bootSet: bootSetDigest }],
  ['a boot that has its boot set goes on to its end, whatever is next', { ...known, next: 'local', openBoot: bootWith(['script'], { bootSet: bootSetDigest }) }, { via: 'http', wants: 'script' }, { kind: 'boot' }],
  ['its initrd stage, too', { ...known, next: 'local', openBoot: bootWith(['script'], { bootSet: bootSetDigest }) }, { via: 'dhcp', asker: 'initrd' }, { kind: 'boot' }],
  ['one failure fewer is not held', { ...failing, failedInRow: FAILURES_BEFORE_HOLD - 1 }, ipxe, { kind: 'boot' }],
  ['a script without an open boot is held: no DISCOVER was seen', known, { via: 'http', asker: 'ipxe', wants: 'script' }, { kind: 'hold', why: 'no boot of this machine is open: its DHCP DISCOVER was not seen here' }],
  ['a script in an open boot is answered', { ...known, openBoot: bootWith(['discover', 'lease']) }, { via: 'http', asker: 'ipxe', wants: 'script' }, { kind: 'boot', bootSet: bootSetDigest }],
  ['a boot whose boot set is fixed is answered from it, whatever is assigned now', { ...known, openBoot: bootWith(['script'], { bootSet: 'sha256:fixed' }) }, ipxe, { kind: 'boot', bootSet: 'sha256:fixed' }],
  ['a node that waits for an image slot is held, with its place and when to ask again', { ...known, waiting: { place: 12, etaS: 40, retryAfterS: 17 } }, { via: 'http', wants: 'image' }, { kind: 'hold', why: 'every image slot is taken: place 12, about 40 s', retryAfterS: 17, queue: { place: 12, etaS: 40 } }],
  ['one whose turn nobody can foretell is told its place alone', { ...known, waiting: { place: 1, retryAfterS: 7 } }, { via: 'http', wants: 'image' }, { kind: 'hold', why: 'every image slot is taken: place 1', queue: { place: 1 } }],
  ['a node that failed too often is told of the queue first', { ...failing, waiting: { place: 2, retryAfterS: 7 } }, { via: 'http', wants: 'image' }, { kind: 'hold', retryAfterS: 7, queue: { place: 2 } }],
  ['one that has all the streams that a machine may have is told so', { ...known, waiting: { place: 1, ownStreams: true, retryAfterS: 5 } }, { via: 'http', wants: 'image' }, { kind: 'hold', why: 'this machine fetches as many images at once as it may', retryAfterS: 5, queue: { place: 1, ownStreams: true } }],
  ['who is not served does not learn that there is a queue', { failedInRow: 0, waiting: { place: 2, retryAfterS: 7 } }, { via: 'http', wants: 'image' }, { kind: 'silent' }],
];

describe('decide', () => {
  it.each(rows)('%s', (_sentence, view, request, decided) => {
    expect(decide(view, request, generation)).toMatchObject(decided);
  });

  it('survives a structured clone on both sides', () => {
    const decision = decide(structuredClone(failing), structuredClone(ipxe), structuredClone(generation));
    expect(structuredClone(decision)).toEqual(decide(failing, ipxe, generation));
  });
});
