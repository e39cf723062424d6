// The policy: from all that is known of a machine to what it shall do next. Pure, and the only place where this is settled.
import type { Digest } from '../digest.ts';
import { placeWords, type Queue } from './admission.ts';
import { chooseLoader, DEBIAN_12_LOADERS, type LoaderProgram } from './loader.ts';
import { servedName } from './loader-set.ts';
import { HOLD_S, holdWords, isHeld, type Failures } from './hold.ts';
import { nextOf, type SaidNext } from './next.ts';
import type { ExitMethod, Node } from './node.ts';
import type { Generation } from './profile.ts';
import type { Quirked } from './quirks.ts';
import { typeWords, type Arch, type BootRequest } from './request.ts';
import { hasStage, type Boot } from './timeline.ts';
import { UKI_LOADER, ukiWay } from './uki.ts';
import { UKI_FILE } from './urls.ts';

export type BootDecision =
  /** No answer: another server may have one. */
  | { readonly kind: 'silent'; readonly why: string }
  /** An address, but boot from disk. */
  | { readonly kind: 'local'; readonly why: string; readonly exit: ExitMethod }
  /** Fetch this program first. */
  | ({ readonly kind: 'loader' } & LoaderRef)
  /** This is what you boot. */
  | { readonly kind: 'boot'; readonly bootSet: Digest }
  /**
   * Wait and ask again. `hint`: what a person can do about it. `loader`: what a ROM runs meanwhile, so that its screen can say why; absent when there is
   * none for it. `queue`: every image slot is taken, or all streams of the machine are, and this is where it stands.
   */
  | { readonly kind: 'hold'; readonly why: string; readonly hint?: string; readonly retryAfterS: number; readonly loader?: LoaderRef; readonly queue?: Queue };

/** `file` is a name as machines ask for it (servedName), or UKI_FILE. */
export interface LoaderRef {
  readonly file: string;
  readonly via: 'tftp' | 'http';
}

/** All that is known of the machine at that moment. */
export interface View extends Failures, SaidNext, Quirked {
  readonly node?: Node;
  /** The boot that this request belongs to. */
  readonly openBoot?: Boot;
  /** So many failures in a row hold it; 0: none do. Default FAILURES_BEFORE_HOLD. */
  readonly holdAfter?: number;
  /** What the node shall boot, runs, and last ran with success. */
  readonly assigned?: Digest;
  readonly running?: Digest;
  readonly lastGood?: Digest;
  /** What admission says of a request with `wants: 'image'`; absent when the machine has its slot, or needs none. */
  readonly waiting?: Queue & { readonly retryAfterS: number };
  /** The machine's loader set; default: what Debian 12 has. None: there is no such set any more. */
  readonly loaders?: readonly LoaderProgram[];
  /** What it is called; absent: the built-in one. */
  readonly loaderSet?: string;
}

/** How soon a machine asks again whose boot did not start with a DISCOVER that we saw, in seconds. */
export const NO_BOOT_RETRY_S = 10;

export function decide(view: View, request: BootRequest, generation: Generation): BootDecision {
  const decided = withLoader(decideAdmitted(view, request, generation), view, request);
  if (!view.waiting || decided.kind === 'silent') return decided;
  const { place, etaS, ownStreams, retryAfterS } = view.waiting;
  const queue: Queue = { place, ...(etaS === undefined ? {} : { etaS }), ...(ownStreams ? { ownStreams } : {}) };
  const why = ownStreams ? 'this machine fetches as many images at once as it may' : `every image slot is taken: ${placeWords(queue)}`;
  return { kind: 'hold', why, retryAfterS, queue };
}

function decideAdmitted(view: View, request: BootRequest, generation: Generation): BootDecision {
  const { node, openBoot } = view;
  if (!node) return decideStranger(view, request);
  // A boot reads one boot set: once fixed it is answered from, whatever generation is current, and whether or not that still names the node.
  const profile = generation.profiles[node.profile];
  const bootSet = openBoot?.bootSet ?? profile?.bootSet;
  if (!bootSet) return profile ? { kind: 'local', why: `profile ${profile.name} boots from disk`, exit: exitOf(view) } : { kind: 'silent', why: `profile ${node.profile} is not in this generation` };
  if (request.asker === 'os') return { kind: 'local', why: 'a running system needs an address only', exit: exitOf(view) };
  if (request.asker === 'initrd') return { kind: 'boot', bootSet };
  // A boot that has its boot set goes on to its end, whatever was said of the next one.
  if (openBoot?.bootSet === undefined && nextOf(node, view) === 'local') return { kind: 'local', why: `${node.name} boots from its disk: next is local`, exit: exitOf(view) };

  const image = generation.bootSets[bootSet]?.image;
  if (image && (request.arch !== undefined || request.unknownType !== undefined) && !runs(request, image.arch)) {
    return { kind: 'hold', why: `image ${image.name} is for ${image.arch}, this machine is ${request.arch ?? `of ${typeWords(request.unknownType!)}`}`, retryAfterS: HOLD_S };
  }
  const isHeldNow = openBoot?.bootSet === undefined && isHeld(view, profile?.bootSet, view.holdAfter);
  // Who is held, or has no boot, gets the loader that can say so.
  if (node.loader === UKI_LOADER && (request.asker === 'rom' || request.asker === 'ipxe') && !isHeldNow && (request.wants !== 'script' || openBoot)) {
    const way = ukiWay(request, image);
    return 'why' in way ? { kind: 'hold', why: way.why, retryAfterS: HOLD_S } : { kind: 'loader', file: UKI_FILE, via: way.via };
  }
  if (request.asker === 'rom') return loaderFor(view, request);
  if (request.asker === 'ipxe' && request.features && !runsScript(request)) {
    // TRAPS 1.4: it gets a better loader once; if that one can do no more, going on would loop for ever.
    if (openBoot && hasStage(openBoot, 'loader')) {
      return { kind: 'hold', why: `this iPXE cannot fetch by HTTP or start a kernel (it lists ${request.features.join(' ') || 'nothing'})`, retryAfterS: HOLD_S };
    }
    return loaderFor(view, request);
  }
  if (request.wants === 'script' && !openBoot) {
    return { kind: 'hold', why: 'no boot of this machine is open: its DHCP DISCOVER was not seen here', retryAfterS: NO_BOOT_RETRY_S };
  }
  if (isHeldNow) {
    return { kind: 'hold', why: holdWords(view), hint: `mend it, then: rackseed node release ${node.name}`, retryAfterS: HOLD_S };
  }
  return { kind: 'boot', bootSet };
}

/** How soon a machine asks again that no profile names yet, in seconds: the operator is adding it right now. */
export const STRANGER_RETRY_S = 20;

/** A machine that no profile names: by what its subnet serves. One that boots gets as far as a screen that says what to do. */
function decideStranger(view: View, request: BootRequest): BootDecision {
  const unnamed = 'no profile names this machine';
  const { serve = 'known', asker, via } = request;
  if (serve === 'known') return { kind: 'silent', why: unnamed };
  // A script or a loader is asked for by a machine that was let in by DHCP.
  if (asker === 'rom') return loaderFor(view, request);
  if (asker === 'ipxe' || via !== 'dhcp') {
    return { kind: 'hold', why: `${unnamed}${request.mac ? `: add ${request.mac} under nodes in boot-profiles/` : ''}`, retryAfterS: STRANGER_RETRY_S };
  }
  return serve === 'any' ? { kind: 'local', why: unnamed, exit: 'exit' } : { kind: 'silent', why: unnamed };
}

/** How it goes to its disk. */
function exitOf({ node, quirks }: View): ExitMethod {
  return node?.exit ?? quirks?.exit ?? 'exit';
}

/** A BIOS machine says nothing of its processor (option 93 is 0 on all of them): 32 or 64 bits, its kernel will tell. Nor does UEFI of 32 bits, which starts kernels of 64, too. */
function runs(request: BootRequest, arch: Arch): boolean {
  return request.firmware === 'bios' || request.arch === 'i386' ? arch === 'amd64' || arch === 'i386' : request.arch === arch;
}

/** TRAPS 1.4: what it can do counts, not whose it is. */
function runsScript(request: BootRequest): boolean {
  const can = new Set(request.features);
  return can.has('http') && (request.firmware === 'bios' || request.firmware === undefined ? can.has('bzimage') : can.has('efi') || can.has('bzimage'));
}

/** The loader that this machine starts with, or a hold that says why it has none. */
function loaderFor({ node, quirks, loaders = DEBIAN_12_LOADERS, loaderSet }: View, request: BootRequest): BootDecision {
  if (loaderSet !== undefined && loaders.length === 0) return { kind: 'hold', why: `loader set ${loaderSet} is not there, or has no file`, hint: 'rackseed loader list', retryAfterS: HOLD_S };
  const own = node?.loader === UKI_LOADER ? 'auto' : node?.loader;
  const byQuirk = own === undefined && quirks?.loader !== undefined ? chooseLoader(request, loaders, quirks.loader) : undefined;
  // Nobody here asked for a quirk's loader: where it cannot run, the usual one can.
  const chosen = byQuirk && 'file' in byQuirk ? byQuirk : chooseLoader(request, loaders, own);
  return 'why' in chosen ? { kind: 'hold', why: chosen.why, retryAfterS: HOLD_S } : { kind: 'loader', ...chosen, file: servedName(loaderSet, chosen.file) };
}

/** A ROM cannot show a reason; the loader that it would get can. */
function withLoader(decided: BootDecision, view: View, request: BootRequest): BootDecision {
  if (decided.kind !== 'hold' || request.asker !== 'rom') return decided;
  const loader = loaderFor(view, request);
  return loader.kind === 'loader' ? { ...decided, loader: { file: loader.file, via: loader.via } } : decided;
}
