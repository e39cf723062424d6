// Which boot a request belongs to, as a table.
import { describe, expect, it } from 'vitest';
import { correlate, LOADER_ASKS_MS, SAME_ATTEMPT_MS, type Correlation } from '../../src/boot/correlate.ts';
import type { BootRequest } from '../../src/boot/request.ts';
import type { Boot } from '../../src/boot/timeline.ts';
import { bootWith, NOW } from './boot-world.ts';

const discover = (asker: 'rom' | 'ipxe' | 'initrd' | 'os'): BootRequest => ({ via: 'dhcp', message: 'discover', asker });
const old = { startedAt: NOW - SAME_ATTEMPT_MS };

const rows: readonly [sentence: string, open: Boot | undefined, request: BootRequest, verdict: Correlation][] = [
  ["a ROM's DISCOVER starts a boot", undefined, discover('rom'), 'start'],
  ["the card's own iPXE starts a boot", undefined, discover('ipxe'), 'start'],
  ['our initrd stage never starts one', undefined, discover('initrd'), 'none'],
  ['a running system never starts one', undefined, discover('os'), 'none'],
  ['a REQUEST never starts one', undefined, { via: 'dhcp', message: 'request', asker: 'rom' }, 'none'],
  ['a script request never starts one', undefined, { via: 'http', asker: 'ipxe', wants: 'script' }, 'none'],
  ['a ROM that asks again within a minute is the same attempt', bootWith(['discover', 'offer']), discover('rom'), 'continue'],
  ['a ROM that asks again after a minute is a new attempt', bootWith(['discover', 'offer', 'lease'], old), discover('rom'), 'start'],
  ['an attempt that the clock, set back since, calls tomorrow\'s is not the same one', bootWith(['discover', 'offer'], { startedAt: NOW + 86_400_000 }), discover('rom'), 'start'],
  ['a ROM that asks after the loader was fetched has started again', bootWith(['discover', 'offer', 'lease', 'loader']), discover('rom'), 'start'],
  ['an iPXE that asks after the loader was fetched is the one that we sent', bootWith(['discover', 'offer', 'lease', 'loader'], old), discover('ipxe'), 'continue'],
  ['an iPXE that asks long after the loader was fetched has been switched off and on', { ...bootWith(['discover', 'offer', 'lease']), stages: [{ name: 'loader', state: 'ok', firstAt: NOW - LOADER_ASKS_MS, lastAt: NOW - LOADER_ASKS_MS, count: 1, detail: {} }] }, discover('ipxe'), 'start'],
  ['an iPXE that asks after its script was fetched has started again', bootWith(['discover', 'offer', 'lease', 'script']), discover('ipxe'), 'start'],
  ['an iPXE that we sent and that asks after its script has started again', bootWith(['discover', 'offer', 'lease', 'loader', 'script']), discover('ipxe'), 'start'],
  ['the initrd stage goes on with the open boot', bootWith(['script', 'kernel', 'initrd']), discover('initrd'), 'continue'],
  ['a report goes on with the open boot', bootWith(['userspace']), { via: 'http', asker: 'os' }, 'continue'],
];

describe('correlate', () => {
  it.each(rows)('%s', (_sentence, open, request, verdict) => {
    expect(correlate(open, request, NOW)).toBe(verdict);
  });
});
