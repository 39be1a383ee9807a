-- One tenant's buckets and permits, for one gateway: what that gives back or owes is booked, what it
-- asks for is taken if it is there. All of it at once, by the server's own clock.
--
-- KEYS  1 the tenant: a hash of the level of each bucket (rl, tl), its limit (rm, tm) and when that
--         was (at), and of what each gateway holds (p:GATEWAY, "permits:until")
--       2 the epoch of this store: id, and when others found what they knew lost (lost, 0: never)
-- ARGV  1 gateway, 2 seconds that its permits live, 3 the epoch it knows ('' none), 4 a new one
--       5–9 requests: limit, delta, least, most, hint ('' none); 10–14 tokens: likewise
--       15–17 permits: limit, want, must
-- Answers: epoch, and as strings: requests taken, left; tokens taken, left; permits held, by all.
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1000000

local epoch, lost = unpack(redis.call('HMGET', KEYS[2], 'id', 'lost'))
lost = tonumber(lost or '0')
if not epoch then
    epoch = ARGV[4]
    if ARGV[3] ~= '' then lost = now end
    redis.call('HSET', KEYS[2], 'id', epoch, 'lost', tostring(lost))
elseif ARGV[3] ~= '' and ARGV[3] ~= epoch and lost == 0 then
    lost = now
    redis.call('HSET', KEYS[2], 'lost', string.format('%.6f', lost))
end

local held = {}
local flat = redis.call('HGETALL', KEYS[1])
for i = 1, #flat, 2 do held[flat[i]] = flat[i + 1] end
local since = math.max(0, now - tonumber(held.at or tostring(now)))
local writes = {'at', string.format('%.6f', now)}
local full_s = 0

local function bucket(name, first)
    local limit = tonumber(ARGV[first])
    if limit <= 0 then return 0, 0 end
    local delta, least = tonumber(ARGV[first + 1]), tonumber(ARGV[first + 2])
    local most, hint = tonumber(ARGV[first + 3]), tonumber(ARGV[first + 4])
    local rate = limit / 60
    local level, before = tonumber(held[name .. 'l']), tonumber(held[name .. 'm'])
    if level then
        if before ~= limit and level > 0 then level = level * limit / before end
        level = level + since * rate
    elseif lost > 0 and now - lost < 60 then
        -- Everything was lost: nobody gets a full bucket for that.
        level = hint or (limit * 0.1 + (now - lost) * rate)
    else
        level = limit  -- a bucket is forgotten when it is full
    end
    level = math.min(limit, math.min(limit, level) + delta)
    local granted = 0
    if most > 0 and level + 1e-6 >= least then
        granted = math.max(least, math.min(most, math.floor(level + 1e-6)))
        level = level - granted
    end
    writes[#writes + 1] = name .. 'l'
    writes[#writes + 1] = string.format('%.6f', level)
    writes[#writes + 1] = name .. 'm'
    writes[#writes + 1] = string.format('%.17g', limit)
    full_s = math.max(full_s, (limit - level) / rate)
    return granted, level
end

local requests, requests_left = bucket('r', 5)
local tokens, tokens_left = bucket('t', 10)

local limit, want, must = tonumber(ARGV[15]), tonumber(ARGV[16]), tonumber(ARGV[17])
local mine, total, gone = 0, 0, {}
if limit > 0 then
    local me = 'p:' .. ARGV[1]
    for field, value in pairs(held) do
        if string.sub(field, 1, 2) == 'p:' then
            local count, till = string.match(value, '^(%d+):([%d.]+)$')
            if not count or tonumber(till) <= now then
                if field ~= me then gone[#gone + 1] = field end
            elseif field ~= me then
                total = total + tonumber(count)
            end
        end
    end
    mine = math.max(must, math.min(want, limit - total), 0)
    total = total + mine
    if mine > 0 then
        writes[#writes + 1] = me
        writes[#writes + 1] = string.format('%d:%.3f', mine, now + tonumber(ARGV[2]))
        full_s = math.max(full_s, tonumber(ARGV[2]))
    else
        gone[#gone + 1] = me
    end
end

redis.call('HSET', KEYS[1], unpack(writes))
if #gone > 0 then redis.call('HDEL', KEYS[1], unpack(gone)) end
redis.call('PEXPIRE', KEYS[1], math.ceil(full_s * 1000) + 2000)
return {
    epoch,
    string.format('%.6f', requests), string.format('%.6f', requests_left),
    string.format('%.6f', tokens), string.format('%.6f', tokens_left),
    string.format('%d', mine), string.format('%d', total),
}
