// A stage with one server on it: plays are played to it, and its answers noted in words that hold for any server.
import type { Ip4 } from '../../src/addr.ts';
import { ip4FromNumber, ip4ToNumber } from '../../src/addr.ts';
import { ipOf, ips, messageOf, OPT, text, textOf, uint16Of, uint16s, uint32, uint32Of } from '../../src/dhcp/options.ts';
import { BROADCAST_FLAG, encode, NO_IP, type Packet } from '../../src/dhcp/packet.ts';
import { machineOn, type Machine, type Option, type Segment } from '../integration/segment.ts';
import { macOf, reservedIp, SITE, type Character, type Step, type Who } from './exchanges.ts';

/** One answer, or silence; each field in words, `-` for absent. */
export type Answer = Readonly<Record<string, string>>;

export const SILENCE: Answer = { type: 'silence' };

interface Part {
  readonly machine: Machine;
  readonly character: Character;
  offer?: Packet;
  /** The last address that was acknowledged. */
  ip?: Ip4;
  standing: 'new' | 'leased' | 'released' | 'declined';
  /** When it sent its last packets. */
  readonly spent: number[];
}

export interface Stage {
  /** Whether the machine can take this step here. */
  can(step: Step): boolean;
  take(step: Step): Promise<Answer>;
  /** What the machine is to the server before a step. */
  standing(who: Who): Part['standing'];
}

/** rackseed takes 5 packets a second of one machine, 10 at once: a play is to stay within that. */
const BUDGET = { packets: 8, ms: 2_000 };
/** How long after the witness's answer another one may still be on its way. */
const GRACE_MS = 60;
const IMPATIENCE_MS = 200;

export async function openStage(segment: Segment, index: number, characters: readonly [Character, Character, Character]): Promise<Stage> {
  const parts = characters.map((character, who): Part => ({ machine: machineOn(segment, macOf(index, who as Who), ownOptions(character, macOf(index, who as Who))), character, standing: 'new', spent: [] }));
  const spentByWitness = { spent: [] as number[] };
  const witness = machineOn(segment, macOf(index, 3));
  await witness.dora();
  const part = (who: Who) => parts[who]!;
  const settled = () => new Promise<void>((resolve) => setTimeout(resolve, GRACE_MS));

  /** All that was sent before has been dealt with: the witness renews its lease. */
  async function dealtWith(): Promise<void> {
    for (let tries = 0; tries < 5; tries++) {
      await inBudget(spentByWitness);
      if (await segment.ask(witness.packet('request', [], { ciaddr: witness.ip! }), { from: witness.ip!, to: SITE.server }, 5_000)) return settled();
    }
    throw new Error(`${SITE.server} has stopped answering`);
  }

  function addressFor({ who, wish }: Step): Ip4 | undefined {
    const { ip } = part(who);
    switch (wish) {
      case 'none':
        return undefined;
      case 'own':
        return ip;
      case 'other':
        return parts.find((one, i) => i !== who && one.standing === 'leased')?.ip;
      case 'free':
        // Far behind what any of them has given out by then.
        return ip4FromNumber(ip4ToNumber(SITE.pool[1]) - index * 3 - who);
      case 'reserved':
        // The next play's, whose machine was not here yet.
        return reservedIp(index + 1);
      case 'outside':
        return ip4FromNumber(0x0a4d_c800 + index);
      case 'foreign':
        return '192.168.77.7';
    }
  }

  function can(step: Step): boolean {
    const { offer, ip, standing } = part(step.who);
    switch (step.say) {
      case 'select':
        return offer !== undefined;
      case 'release':
      case 'decline':
        return standing === 'leased';
      case 'renew':
      case 'rebind':
        return standing !== 'declined' && (step.wish !== 'own' || standing === 'leased') && addressFor(step) !== undefined;
      case 'inform':
        return ip === undefined;
      default:
        return step.wish === 'none' || (step.wish === 'own' ? ip !== undefined : addressFor(step) !== undefined);
    }
  }

  async function take(step: Step): Promise<Answer> {
    const one = part(step.who);
    const { machine, character } = one;
    const { mac } = machine;
    const flags = character.broadcast ? BROADCAST_FLAG : 0;
    const ip = addressFor(step);
    const wished: Option[] = ip === undefined ? [] : [[OPT.requestedIp, ips(ip)]];
    const lease: Option[] = step.lease === undefined ? [] : [[OPT.leaseTime, uint32(step.lease)]];
    const said = async (packet: Packet, way = {}): Promise<Answer> => {
      await inBudget(one);
      const asking = segment.ask(packet, way, 60_000);
      let answer = await Promise.race([asking, new Promise<undefined>((resolve) => setTimeout(() => resolve(undefined), IMPATIENCE_MS))]);
      // Silence is believed when it comes twice: a busy machine loses a packet now and then, and then its client asks again.
      for (let again = 0; !answer && again < 2; again++) {
        if (again > 0) {
          await inBudget(one);
          segment.send(mac, encode(packet) as Uint8Array, way);
        }
        await dealtWith();
        answer = await Promise.race([asking, new Promise<undefined>((resolve) => setImmediate(() => resolve(undefined)))]);
      }
      segment.forget(packet.xid);
      if (!answer) return SILENCE;
      const type = messageOf(answer.packet.options)!;
      const words = inWords(packet, answer.packet, answer.heard.to, { index, who: step.who, had: one.ip, offered: one.offer?.yiaddr, wish: ip });
      if (type === 'offer') one.offer = answer.packet;
      if (type === 'ack' && answer.packet.yiaddr !== NO_IP) {
        one.ip = answer.packet.yiaddr;
        one.standing = 'leased';
        segment.claim(one.ip, mac);
        delete one.offer;
      }
      return words;
    };
    const tell = async (packet: Packet, way = {}): Promise<Answer> => {
      // Twice, for the same reason; to be told so again changes nothing.
      for (let time = 0; time < 2; time++) {
        await inBudget(one);
        segment.send(mac, encode(packet) as Uint8Array, way);
        await dealtWith();
      }
      return SILENCE;
    };
    switch (step.say) {
      case 'discover':
        return said(machine.packet('discover', [...wished, ...lease], { flags }));
      case 'select': {
        const { offer } = one;
        return said(machine.packet('request', [[OPT.serverId, ips(SITE.server)], [OPT.requestedIp, ips(offer!.yiaddr)], ...lease], { flags }));
      }
      case 'select-other-server':
        delete one.offer;
        return said(machine.packet('request', [[OPT.serverId, ips('10.77.0.9')], ...wished], { flags }));
      case 'init-reboot':
        return said(machine.packet('request', [...wished, ...lease], { flags }));
      case 'renew':
      case 'rebind':
        segment.claim(ip!, mac);
        return said(machine.packet('request', lease, { ciaddr: ip! }), step.say === 'renew' ? { from: ip!, to: SITE.server } : { from: ip! });
      case 'release':
        one.standing = 'released';
        return tell(machine.packet('release', [[OPT.serverId, ips(SITE.server)]], { ciaddr: ip! }), { from: ip!, to: SITE.server });
      case 'decline':
        one.standing = 'declined';
        return tell(machine.packet('decline', [[OPT.serverId, ips(SITE.server)], ...wished]));
      case 'inform': {
        const own = ip4FromNumber(0x0a4d_d000 + index * 3 + step.who);
        segment.claim(own, mac);
        return said(machine.packet('inform', [], { ciaddr: own }), { from: own });
      }
    }
  }
  return { can, take, standing: (who) => part(who).standing };
}

async function inBudget({ spent }: { readonly spent: number[] }): Promise<void> {
  while (spent.length >= BUDGET.packets && spent[0]! > Date.now() - BUDGET.ms) await new Promise((resolve) => setTimeout(resolve, spent[0]! + BUDGET.ms - Date.now() + 5));
  if (spent.length >= BUDGET.packets) spent.shift();
  spent.push(Date.now());
}

function ownOptions({ clientId, hostName, maxSize, asks }: Character, mac: string): Option[] {
  const bytes = Uint8Array.from(mac.split(':'), (pair) => Number.parseInt(pair, 16));
  const options: Option[] = [];
  if (clientId === 'mac') options.push([OPT.clientId, Uint8Array.of(1, ...bytes)]);
  if (clientId === 'opaque') options.push([OPT.clientId, Uint8Array.of(255, 0, 0, 0, 1, 0, 2, 0, 0, 171, 17, ...bytes)]);
  if (hostName) options.push([OPT.hostName, text(`pc-${mac.replaceAll(':', '')}`)]);
  if (maxSize !== undefined) options.push([OPT.maxSize, uint16s(maxSize)]);
  if (asks) options.push([OPT.parameterList, Uint8Array.from(asks)]);
  return options;
}

interface Known {
  readonly index: number;
  readonly who: Who;
  readonly had: Ip4 | undefined;
  readonly offered: Ip4 | undefined;
  readonly wish: Ip4 | undefined;
}

/** Those that have a field of their own. */
const SHOWN = new Set<number>([OPT.messageType, OPT.serverId, OPT.leaseTime, OPT.renewalTime, OPT.rebindingTime, OPT.subnetMask, OPT.router, OPT.dns, OPT.domain, OPT.hostName, OPT.broadcast, OPT.clientId, OPT.message, 26, 42]);

function inWords(asked: Packet, { options, yiaddr, siaddr, ciaddr, file }: Packet, to: Ip4, known: Known): Answer {
  const ip = (tag: number) => ipOf(options, tag) ?? '-';
  const seconds = (tag: number) => String(uint32Of(options, tag) ?? '-');
  const lease = uint32Of(options, OPT.leaseTime);
  const share = (tag: number) => {
    const value = uint32Of(options, tag);
    return value === undefined || lease === undefined ? '-' : `${Math.round((value / lease) * 1_000) / 10} %`;
  };
  const id = options.get(OPT.clientId);
  const type = messageOf(options)!;
  return {
    type,
    address: addressIn(yiaddr, known),
    server: ip(OPT.serverId) === SITE.server ? 'its own' : ip(OPT.serverId),
    lease: seconds(OPT.leaseTime),
    renewal: share(OPT.renewalTime),
    rebinding: share(OPT.rebindingTime),
    mask: ip(OPT.subnetMask),
    router: ip(OPT.router),
    dns: ip(OPT.dns),
    domain: textOf(options, OPT.domain) ?? '-',
    broadcast: ip(OPT.broadcast),
    mtu: String(uint16Of(options, 26) ?? '-'),
    ntp: ip(42),
    hostName: (textOf(options, OPT.hostName) ?? '-').replace(/^pc-[0-9a-f]{12}(\.rack\.test)?$/, (name) => (name.includes('.') ? 'its own, qualified' : 'its own')).replace(/^n\d+$/, 'the reservation\'s').replace(/^n\d+\.rack\.test$/, 'the reservation\'s, qualified'),
    clientId: id === undefined ? '-' : Buffer.compare(id, asked.options.get(OPT.clientId) ?? Buffer.of()) === 0 ? 'echoed' : 'another',
    ciaddr: ciaddr === NO_IP ? '-' : ciaddr === asked.ciaddr ? 'echoed' : 'another',
    siaddr: siaddr === NO_IP ? '-' : siaddr === SITE.server ? 'its own' : siaddr,
    file: file || '-',
    to: to === '255.255.255.255' ? 'everybody' : 'the address',
    more: [...options.keys()].filter((tag) => !SHOWN.has(tag)).sort((a, b) => a - b).join(' ') || '-',
  };
}

/** What the address is to the machine. */
function addressIn(ip: Ip4, { index, who, had, offered, wish }: Known): string {
  if (ip === NO_IP) return '-';
  if (who === 0 && ip === reservedIp(index)) return 'its reservation';
  if (ip === had) return 'the one it had';
  if (ip === offered) return 'the one it was offered';
  if (ip === wish) return 'the one it wished';
  const n = ip4ToNumber(ip);
  return n >= ip4ToNumber(SITE.pool[0]) && n <= ip4ToNumber(SITE.pool[1]) ? 'one of the pool' : `elsewhere: ${ip}`;
}
