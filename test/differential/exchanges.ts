// Valid DHCP exchanges at random: what three machines of one link say, step by step, in words that hold for any server.
import fc from 'fast-check';
import type { Ip4 } from '../../src/addr.ts';
import { ip4FromNumber } from '../../src/addr.ts';

/** 10.77.0.0/16 on each server's own link; the same for all three. */
export const SITE = {
  subnet: '10.77.0.0/16',
  mask: '255.255.0.0',
  server: '10.77.0.1',
  router: '10.77.0.254',
  dns: '10.77.0.53',
  ntp: '10.77.0.54',
  domain: 'rack.test',
  mtu: 1400,
  leaseSeconds: 43_200,
  pool: ['10.77.16.0', '10.77.79.255'],
} as const;

/** Which of a play's machines: the first has a reservation, the others are strangers. */
export type Who = 0 | 1 | 2;

/** An address in a message, by what it is to the machine that sends it. */
export type Wish = 'none' | 'own' | 'free' | 'other' | 'reserved' | 'outside' | 'foreign';

export interface Step {
  readonly who: Who;
  readonly say: 'discover' | 'select' | 'select-other-server' | 'init-reboot' | 'renew' | 'rebind' | 'release' | 'decline' | 'inform';
  /** DISCOVER, INIT-REBOOT, RENEW and REBIND. */
  readonly wish: Wish;
  /** Option 51, in seconds. */
  readonly lease: number | undefined;
}

export interface Character {
  readonly clientId: 'none' | 'mac' | 'opaque';
  readonly hostName: boolean;
  readonly broadcast: boolean;
  readonly maxSize: number | undefined;
  readonly asks: readonly number[] | undefined;
}

export interface Play {
  readonly machines: readonly [Character, Character, Character];
  readonly steps: readonly Step[];
}

const character: fc.Arbitrary<Character> = fc.record({
  clientId: fc.constantFrom('none', 'mac', 'opaque'),
  hostName: fc.boolean(),
  broadcast: fc.boolean(),
  maxSize: fc.constantFrom(undefined, 576, 1500),
  asks: fc.option(fc.subarray([1, 3, 6, 12, 15, 26, 28, 42, 51, 54, 58, 59], { minLength: 1 }), { nil: undefined, freq: 5 }),
});

const wishes: Readonly<Record<Step['say'], readonly Wish[]>> = {
  discover: ['none', 'none', 'own', 'free', 'other', 'reserved', 'outside', 'foreign'],
  select: ['none'],
  'select-other-server': ['free', 'own'],
  'init-reboot': ['own', 'own', 'free', 'other', 'reserved', 'outside', 'foreign'],
  renew: ['own', 'own', 'own', 'free'],
  rebind: ['own', 'own', 'own', 'free', 'other'],
  release: ['own'],
  decline: ['own'],
  inform: ['none'],
};

const step: fc.Arbitrary<Step> = fc
  .constantFrom<Step['say'][]>('discover', 'discover', 'discover', 'select', 'select', 'select', 'select-other-server', 'init-reboot', 'renew', 'rebind', 'release', 'decline', 'inform')
  .chain((say) =>
    fc.record({
      who: fc.constantFrom<Who[]>(0, 1, 2),
      say: fc.constant(say),
      wish: fc.constantFrom(...wishes[say]),
      lease: fc.constantFrom(undefined, undefined, 600, 100_000),
    }),
  );

/** Most machines have a lease before anything odd happens, or most steps could not be taken. */
export const play: fc.Arbitrary<Play> = fc
  .record({ machines: fc.tuple(character, character, character), begin: fc.subarray<Who>([0, 1, 2], { minLength: 1 }), steps: fc.array(step, { minLength: 4, maxLength: 9 }) })
  .map(({ machines, begin, steps }) => ({
    machines,
    steps: [...begin.flatMap((who): Step[] => [{ who, say: 'discover', wish: 'none', lease: undefined }, { who, say: 'select', wish: 'none', lease: undefined }]), ...steps],
  }));

/** Reservations: one a play, and one that nobody of the play has. */
export const PLAYS_MOST = 1_000;
export const reservedMac = (index: number): string => `52:54:01:00:${hex(index >> 8)}:${hex(index)}`;
export const reservedIp = (index: number): Ip4 => ip4FromNumber(0x0a4d_0100 + index);
export const reservedName = (index: number): string => `n${index}`;
/** Machine 3 is the one that shows that a server has heard all before. */
export const macOf = (index: number, who: Who | 3): string => (who === 0 ? reservedMac(index) : `52:54:02:0${who}:${hex(index >> 8)}:${hex(index)}`);

function hex(n: number): string {
  return (n & 255).toString(16).padStart(2, '0');
}
