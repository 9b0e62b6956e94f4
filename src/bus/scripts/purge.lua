-- Takes a worker's members out of the rooms of a partition, a bounded piece of the way.
-- KEYS of:WORKER owners active
-- ARGV worker, key of members without the room, room and cursor where to go on
-- Answer: room and cursor where to go on (an empty room: it is done), (room, user, users left, version) of
-- each user that no worker has any more
--
-- The worker may live: nobody is in any room under this id, or generation of it, any more, and nobody will
-- be.
local PAGE, BUDGET = 200, 1000 -- fields

local id, room, cursor = ARGV[1], ARGV[3], ARGV[4]
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local answer = {'', '0'}

local function without(ids)
    local rest = {}

    for at = 1, #ids, #id do
        local one = string.sub(ids, at, at + #id - 1)
        if one ~= id then rest[#rest + 1] = one end
    end
    return table.concat(rest)
end

local function take_out(members, fields)
    local version = tonumber(redis.call('HGET', members, '') or 0)
    local count, before = redis.call('HLEN', members) - 1, version

    for i = 1, #fields, 2 do
        local user, ids = fields[i], fields[i + 1]
        local rest = user == '' and ids or without(ids)

        if rest == '' then
            redis.call('HDEL', members, user)
            count, version = count - 1, math.max(version + 1, now)
            answer[#answer + 1] = room
            answer[#answer + 1] = user
            answer[#answer + 1] = count
            answer[#answer + 1] = string.format('%d', version)
        elseif rest ~= ids then
            redis.call('HSET', members, user, rest)
        end
    end
    if version ~= before and count > 0 then
        redis.call('HSET', members, '', string.format('%d', version))
        redis.call('ZADD', KEYS[3], count, room)
    elseif version ~= before then
        redis.call('DEL', members)
        redis.call('ZREM', KEYS[3], room)
    end
end

local seen = 0
while seen < BUDGET do
    if room == '' then
        room, cursor = redis.call('SRANDMEMBER', KEYS[1]), '0'
        if not room then
            redis.call('SREM', KEYS[2], id)
            return answer
        end
    end
    local members = ARGV[2] .. ':' .. room
    local page = redis.pcall('HSCAN', members, cursor, 'COUNT', PAGE)
    if page.err then
        -- A room that is just moving to another node of a cluster: those that are gone already must be told.
        if #answer == 2 then return page end
        break
    end
    take_out(members, page[2])
    seen, cursor = seen + #page[2] / 2 + 1, page[1]
    if cursor == '0' then
        redis.call('SREM', KEYS[1], room)
        room = ''
    end
end
if room == '' then
    room, cursor = redis.call('SRANDMEMBER', KEYS[1]) or '', '0'
    if room == '' then redis.call('SREM', KEYS[2], id) end
end
answer[1], answer[2] = room, cursor
return answer
