// The policy: from all that is known of a machine to what it shall do next. Pure, and the only place where this is settled.
import type { Digest } from '../digest.ts';
import { placeWords, type Queue } from './admission.ts';
import type { ExitMethod, Node } from './node.ts';
import type { Generation } from './profile.ts';
import type { Arch, BootRequest } from './request.ts';
import { hasStage, type Boot } from './timeline.ts';

export type BootDecision =
  /** No answer: another server may have one. */
  | { readonly kind: 'silent'; readonly why: string }
  /** An address, but boot from disk. */
  | { readonly kind: 'local'; readonly why: string; readonly exit: ExitMethod }
  /** Fetch this program first. `file` is a name in the loader manifest. */
  | { readonly kind: 'loader'; readonly file: string; readonly via: 'tftp' | 'http' }
  /** This is what you boot. */
  | { readonly kind: 'boot'; readonly bootSet: Digest }
  /** Wait and ask again. `queue`: every image slot is taken, or all streams of the machine are, and this is where it stands. */
  | { readonly kind: 'hold'; readonly why: string; readonly retryAfterS: number; readonly queue?: Queue };

/** All that is known of the machine at that moment. */
export interface View {
  readonly node?: Node;
  /** The boot that this request belongs to. */
  readonly openBoot?: Boot;
  /** How many boots of the node ended as failed since the last one that got ready. */
  readonly failedInRow: number;
  /** When the last of them ended, in milliseconds since 1970. */
  readonly lastFailedAt?: number;
  /** What the node shall boot, runs, and last ran with success. */
  readonly assigned?: Digest;
  readonly running?: Digest;
  readonly lastGood?: Digest;
  /** What admission says of a request with `wants: 'image'`; absent when the machine has its slot, or needs none. */
  readonly waiting?: Queue & { readonly retryAfterS: number };
}

/** A node that failed this often is slowed down: a boot loop is the third most common complaint of the field. */
export const FAILURES_BEFORE_HOLD = 5;
/** How long after a failure such a node waits, in seconds. */
export const HOLD_S = 60;

/** How soon a machine asks again whose boot did not start with a DISCOVER that we saw, in seconds. */
export const NO_BOOT_RETRY_S = 10;

/** `now` in milliseconds since 1970. */
export function decide(view: View, request: BootRequest, generation: Generation, now: number): BootDecision {
  const decided = decideAdmitted(view, request, generation, now);
  if (!view.waiting || decided.kind === 'silent') return decided;
  const { place, etaS, ownStreams, retryAfterS } = view.waiting;
  const queue: Queue = { place, ...(etaS === undefined ? {} : { etaS }), ...(ownStreams ? { ownStreams } : {}) };
  const why = ownStreams ? 'this machine fetches as many images at once as it may' : `every image slot is taken: ${placeWords(queue)}`;
  return { kind: 'hold', why, retryAfterS, queue };
}

function decideAdmitted(view: View, request: BootRequest, generation: Generation, now: number): BootDecision {
  const { node, openBoot } = view;
  if (!node) return decideStranger(request);
  // A boot reads one boot set: once fixed it is answered from, whatever generation is current, and whether or not that still names the node.
  const profile = generation.profiles[node.profile];
  const bootSet = openBoot?.bootSet ?? profile?.bootSet;
  if (!bootSet) return profile ? { kind: 'local', why: `profile ${profile.name} boots from disk`, exit: node.exit } : { kind: 'silent', why: `profile ${node.profile} is not in this generation` };
  if (request.asker === 'os') return { kind: 'local', why: 'a running system needs an address only', exit: node.exit };
  if (request.asker === 'initrd') return { kind: 'boot', bootSet };

  const image = generation.bootSets[bootSet]?.image;
  if (image && request.arch && !runs(request, image.arch)) {
    return { kind: 'hold', why: `image ${image.name} is for ${image.arch}, this machine is ${request.arch}`, retryAfterS: HOLD_S };
  }
  if (request.asker === 'rom') return chooseLoader(request);
  if (request.asker === 'ipxe' && request.features && !runsScript(request)) {
    // TRAPS 1.4: it gets a better loader once; if that one can do no more, going on would loop for ever.
    if (openBoot && hasStage(openBoot, 'loader')) {
      return { kind: 'hold', why: `this iPXE cannot fetch by HTTP or start a kernel (it lists ${request.features.join(' ') || 'nothing'})`, retryAfterS: HOLD_S };
    }
    return chooseLoader(request);
  }
  if (request.wants === 'script' && !openBoot) {
    return { kind: 'hold', why: 'no boot of this machine is open: its DHCP DISCOVER was not seen here', retryAfterS: NO_BOOT_RETRY_S };
  }
  const waitS = holdFor(view, now);
  if (waitS > 0) return { kind: 'hold', why: `${view.failedInRow} boots failed in a row`, retryAfterS: waitS };
  return { kind: 'boot', bootSet };
}

/** How soon a machine asks again that no profile names yet, in seconds: the operator is adding it right now. */
export const STRANGER_RETRY_S = 20;

/** A machine that no profile names: by what its subnet serves. One that boots gets as far as a screen that says what to do. */
function decideStranger(request: BootRequest): BootDecision {
  const unnamed = 'no profile names this machine';
  const { serve = 'known', asker, via } = request;
  if (serve === 'known') return { kind: 'silent', why: unnamed };
  // A script or a loader is asked for by a machine that was let in by DHCP.
  if (asker === 'rom') return chooseLoader(request);
  if (asker === 'ipxe' || via !== 'dhcp') {
    return { kind: 'hold', why: `${unnamed}${request.mac ? `: add ${request.mac} under nodes in boot-profiles/` : ''}`, retryAfterS: STRANGER_RETRY_S };
  }
  return serve === 'any' ? { kind: 'local', why: unnamed, exit: 'exit' } : { kind: 'silent', why: unnamed };
}

/** A BIOS machine says nothing of its processor (option 93 is 0 on all of them): 32 or 64 bits, its kernel will tell. */
function runs(request: BootRequest, arch: Arch): boolean {
  return request.firmware === 'bios' ? arch === 'amd64' || arch === 'i386' : request.arch === arch;
}

/** TRAPS 1.4: what it can do counts, not whose it is. */
function runsScript(request: BootRequest): boolean {
  const can = new Set(request.features);
  return can.has('http') && (request.firmware === 'bios' || request.firmware === undefined ? can.has('bzimage') : can.has('efi') || can.has('bzimage'));
}

/** The loader for this firmware; the DHCP rendering of a hold asks it too, so that the choice stands in one place. */
export function chooseLoader(request: BootRequest): BootDecision {
  if (request.firmware === 'uefi' && request.arch === 'amd64') return { kind: 'loader', file: 'snponly.efi', via: 'tftp' };
  if (request.firmware === 'uefi-http' && request.arch === 'amd64') return { kind: 'loader', file: 'snponly.efi', via: 'http' };
  if (request.firmware === 'bios' || request.firmware === undefined) return { kind: 'loader', file: 'undionly.kpxe', via: 'tftp' };
  return { kind: 'hold', why: `no loader for ${request.arch ?? 'unknown'} ${request.firmware} yet`, retryAfterS: HOLD_S };
}

function holdFor(view: View, now: number): number {
  if (view.failedInRow < FAILURES_BEFORE_HOLD || view.lastFailedAt === undefined) return 0;
  // A clock that was set back: nobody waits for a day because it was wrong for a day.
  if (now < view.lastFailedAt) return 0;
  return Math.max(0, Math.ceil((view.lastFailedAt + HOLD_S * 1000 - now) / 1000));
}
